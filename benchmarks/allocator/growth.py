"""Parts `growth` and `memory`: what 1,000 runs, a million ledger rows and many open groups change, and what one takes.

The rows are put there by direct SQL with counters that agree; the service's own audit checks that they do.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.allocator import bodies, servers
from benchmarks.allocator.against_bare import STEP, SURE, batches, by_call, makespan, pipeline
from benchmarks.allocator.load import open_loop
from benchmarks.allocator.options import Figure, Kind, Options
from benchmarks.allocator.servers import Server
from services.allocator.database.audit import audit
from services.kit.database import connect
from services.kit.session import Database

TEAM = "default"
SMALL = (1, 1_000, 0)
LARGE = (1_000, 1_000_000, 10_240)
QUICK = (50, 20_000, 1_024)
"""Runs, ledger rows and open groups before the measurement."""
STEPS = 6
"""Steps of 512 groups in one repetition."""
OPEN = 20_000
"""Groups that lie open in `memory`."""

_DIGEST = {"sqlite": "lower(hex(randomblob(32)))", "postgresql": "md5('a' || n) || md5('b' || n)"}
_NUMBERS = {
    "sqlite": "(WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n + 1 < :{0}) SELECT n FROM c) AS c",
    "postgresql": "generate_series(0, CAST(:{0} AS integer) - 1) AS c(n)",
}


def growth(options: Options) -> list[Figure]:
    """Latency of calls in a database with 1,000 runs and 10^6 ledger rows, against one with 1 and 10^3."""
    return [figure for database in options.databases for figure in _growth(options, database)]


def memory(options: Options) -> list[Figure]:
    """Bytes in the database and in the process per open group, after one report of each."""
    return [_memory(options, database) for database in options.databases]


def _growth(options: Options, database: Kind) -> list[Figure]:
    found: defaultdict[tuple[str, int, str], list[float]] = defaultdict(list)
    sizes = {"small": SMALL, "large": QUICK if options.quick else LARGE}
    with ExitStack() as stack:
        pair = [stack.enter_context(_filled(options, database, name, size)) for name, size in sizes.items()]
        for seed in options.seeds:
            for server in pair if seed % 2 else pair[::-1]:
                replies = asyncio.run(open_loop(server.target, pipeline(server, seed, options), options.rate))
                for call, latencies in by_call(replies).items():
                    found[server.name, 1, call].append(float(np.median(latencies)) * 1e3)
                for calls in batches(server, seed, STEP, 2 if options.quick else STEPS):
                    replies = asyncio.run(open_loop(server.target, calls, SURE, 1))
                    found[server.name, STEP, calls[0].name].append(makespan(replies) / len(calls) * 1e3)
    return [
        _compared(found["large", groups, call], found["small", groups, call], _name(call, groups, sizes), database)
        for groups in (1, STEP)
        for call in ("open", "observe", "close")
    ]


@contextmanager
def _filled(options: Options, database: Kind, name: str, size: tuple[int, int, int]) -> Iterator[Server]:
    """Run a service on a database with so many runs, ledger rows and open groups."""
    runs, rows, opened = size
    url = servers.database_url(database, options.folder, options.postgres)
    with servers.service(name, url, options.folder) as server:
        asyncio.run(fill(url, runs, rows))
        if opened:
            asyncio.run(open_loop(server.target, [bodies.declare("left-open")], SURE, 1))
            _open(server, bodies.Groups("left-open", 0), opened // STEP, STEP)
        yield server


def _compared(large: list[float], small: list[float], name: str, database: Kind) -> Figure:
    ratios = [ours / theirs for ours, theirs in zip(large, small, strict=True)]
    return Figure(name, database, "<= 1.20", ratios, statistics.median(large), statistics.median(small), "ms")


def _name(call: str, groups: int, sizes: Mapping[str, tuple[int, int, int]]) -> str:
    runs, rows, opened = sizes["large"]
    what = "one group, median" if groups == 1 else f"{groups} groups, one call after another"
    return f"{call}, {what}: {runs:,} runs, {rows:,} ledger rows, {opened:,} open groups against 1, 1,000, 0"


async def fill(url: str, runs: int, rows: int) -> None:
    """Put runs, settled reservations and their entries into a database.

    Raises:
        RuntimeError: the audit finds that counters and entries disagree.
    """
    database = Database(connect(url))
    try:
        async with database.transaction() as connection:
            if url.startswith("postgresql"):
                await connection.execute(text("SET LOCAL statement_timeout = 0"))
            await _insert(connection, runs, rows // 2)
        async with database.transaction() as connection:
            if await audit(connection):
                raise RuntimeError("the filled ledger does not add up")
    finally:
        await database.engine.dispose()


async def _insert(connection: AsyncConnection, runs: int, holds: int) -> None:
    """Each hold of four rollouts was granted and committed: two entries."""
    kind = connection.dialect.name
    numbers, values = _NUMBERS[kind].format("holds"), {"team": TEAM, "runs": runs, "holds": holds}
    name = "'filled-' || (n % :runs)"
    spec = bodies.declare("filled").body.decode()
    day = "'2026-01-01'"
    mine = f"4 * ((:holds - n + :runs - 1) / :runs) FROM {_NUMBERS[kind].format('runs')}"
    statements = {
        # ruff: noqa: S608 - every part of these statements is ours
        "runs (team, run, spec, fingerprint, reliability, finished)": (
            f"SELECT :team, 'filled-' || n, :spec, '', '{{}}', true FROM {_NUMBERS[kind].format('runs')}"
        ),
        "accounts (limit_rollouts, team, run, span, committed)": (
            f"SELECT 1000000000, :team, 'filled-' || n, 'total', {mine}"
        ),
        "usage_sums (team, run, policy, day, granted, committed)": (
            f"SELECT :team, run, 'policy', {day}, committed, committed FROM accounts WHERE run LIKE 'filled-%'"
        ),
        "accounts (team, run, span, committed)": (
            "SELECT :team, '', span, 4 * :holds FROM (SELECT 'day:2026-01-01' AS span UNION ALL SELECT 'month:2026-01') AS s"
        ),
        "reservations (team, id_digest, reservation_id, run, asked, rollouts, day, state, used)": (
            f"SELECT :team, {_DIGEST[kind]}, 'filled/' || n, {name}, 4, 4, {day}, 'committed', 4 FROM {numbers}"
        ),
        "entries (team, run, reservation, kind, rollouts, day, at_s, policy, extra)": (
            f"SELECT :team, {name}, 'filled/' || n, k, 4, {day}, 1767225600, 'policy', false FROM {numbers} "
            "CROSS JOIN (SELECT 'reserve' AS k UNION ALL SELECT 'commit') AS kinds ORDER BY n, k DESC"
        ),
    }
    lines = [f"INSERT INTO {where} {select}" for where, select in statements.items()]
    lines.append(
        "UPDATE accounts SET committed = committed + 4 * :holds WHERE team = :team AND run = '' AND span = 'total'"
    )
    for line in lines:
        used = {key: value for key, value in {**values, "spec": spec}.items() if f":{key}" in line}
        await connection.execute(text(_typed(line, kind)), used)


def _typed(statement: str, kind: str) -> str:
    """Say the types of parameters where PostgreSQL cannot know them."""
    if kind == "sqlite":
        return statement
    for name, type_ in (("team", "text"), ("spec", "text"), ("runs", "bigint"), ("holds", "bigint")):
        statement = statement.replace(f"CAST(:{name} AS integer)", f"CAST(@{name} AS integer)")
        statement = statement.replace(f":{name}", f"CAST(@{name} AS {type_})").replace("@", ":")
    return statement


def _memory(options: Options, database: Kind) -> Figure:
    url = servers.database_url(database, options.folder, options.postgres)
    count, size = (2_048 if options.quick else OPEN) // 512, 512
    with servers.service(database, url, options.folder) as server:
        asyncio.run(open_loop(server.target, [bodies.declare("memory")], SURE, 1))
        groups = bodies.Groups("memory", 0)
        _open(server, groups, 4, size)
        before, stored = server.rss, server.stored()
        _open(server, groups, count, size)
        grown, lies = server.rss - before, server.stored() - stored
    opened = count * size
    return Figure(
        "bytes in the database per open group, with its outcomes, reservations and entries",
        database,
        "stated",
        [1.0],
        lies / opened,
        lies / opened,
        "bytes",
        {"process bytes per group": grown / opened, "open groups": float(opened), "RSS MB": (before + grown) / 2**20},
    )


def _open(server: Server, groups: bodies.Groups, batches: int, size: int) -> None:
    for step in range(1, batches + 1):
        opened, observed, _ = groups.batch(size, step)
        for call in (opened, observed):
            asyncio.run(open_loop(server.target, [call], SURE, 1))
