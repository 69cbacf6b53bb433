"""`python -m benchmarks.capacity`: what one replica of the allocator carries, and how its calls slow down before it stops.

    python -m benchmarks.capacity                       # both databases, steps of 32 groups: three minutes
    python -m benchmarks.capacity --database sqlite --groups 256 --rates 0.5,1,2

A real service, its access log on, as in production, serves four teams. A step opens, observes and closes its groups
in three calls, which are due at fixed times whatever became of earlier ones (open loop). Latency counts from when a call
was due. Next to it stands the CPU that service and database took, by the scheduler's own account, so that what the
machine did besides can be told apart. A rate at which a call is refused, or sent before the answer that it rests on, is
`not carried`, and ends the ladder. The tables of docs/capacity.md are of this program.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path

import httpx
import numpy as np

from benchmarks.allocator import bodies, servers
from benchmarks.allocator.load import Call, Reply, Target, connections, open_loop
from benchmarks.allocator.servers import Server
from benchmarks.scale.real import cpu_s, family_cpu_s, postmaster, server_url

TEAMS = 4
"""As many as keep all units of work of a replica busy: one team has two of four."""
LAG_S = 2.0
"""Between the opening of a step's groups and its report, and between that and its close: a short wave of rollouts."""
CONNECTIONS = 16
"""Of each team: more than it is ever given units, so that a late answer holds no later call back."""
RATES = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Steps per second of all teams together."""
HEADER = (
    "| database | groups a step | steps per s | groups per s | open p50, p99 ms | observe | close "
    "| CPU ms a step: service | database | cores: service | database |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for."""

    databases: Sequence[str]
    groups: int
    rates: Sequence[float]
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; print one line of a table per rate."""
    summary, _, description = (__doc__ or "").partition("\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.capacity", description=summary + description, formatter_class=form)
    parser.add_argument("--database", action="append", choices=("sqlite", "postgresql"), help="default: both")
    parser.add_argument("--groups", type=int, default=32, help="groups of a step (default: %(default)s)")
    parser.add_argument("--rates", help="steps per second of all teams together, by commas")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each rate (default: %(default)g)")
    given = parser.parse_args(arguments)
    rates = RATES if given.rates is None else tuple(map(float, given.rates.split(",")))
    options = Options(given.database or ("sqlite", "postgresql"), given.groups, rates, given.seconds)
    print(HEADER)
    for database in options.databases:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            _ladder(stack, Path(name), database, options)
    print(
        f"\n{os.cpu_count()} cores, Python {sys.version.split()[0]}; load average at the end {os.getloadavg()[0]:.1f}"
    )
    return 0


def _ladder(stack: ExitStack, folder: Path, database: str, options: Options) -> None:
    """Raise the rate until it is not carried."""
    on_server = database == "postgresql"
    url = servers.database_url(database, folder, server_url() if on_server else "")
    stack.enter_context(_access_log())
    server = stack.enter_context(servers.service(database, url, folder))
    targets = _teams(server, folder)
    backend = postmaster(server_url()) if on_server else 0
    _measure(targets, options, 1.0, seed=0)  # what is done once: plans of statements, first pages
    for seed, rate in enumerate(options.rates, start=1):
        place = f"| {database} | {options.groups} | {rate:g} | {rate * options.groups:g}"
        before = cpu_s(server.pid), family_cpu_s(backend) if on_server else 0.0
        try:
            replies = _measure(targets, options, rate, seed)
        except RuntimeError as error:
            print(f"{place} | not carried: {str(error)[:60]} | | | | | | |", flush=True)
            return
        steps = len(replies) / 3
        service_ms = (cpu_s(server.pid) - before[0]) / steps * 1e3
        store_ms = (family_cpu_s(backend) - before[1]) / steps * 1e3 if on_server else 0.0
        columns = [_latencies(replies, call) for call in ("open", "observe", "close")]
        cpu = f"{service_ms:.0f} | {store_ms:.0f} | {service_ms * rate / 1e3:.2f} | {store_ms * rate / 1e3:.2f}"
        print(f"{place} | {' | '.join(columns)} | {cpu} |", flush=True)


def _access_log() -> ExitStack:
    """Turn the access log on for a service that is started inside."""
    name = "ROLLOUT_BUDGET_ALLOCATOR_ACCESS_LOG"
    os.environ[name] = "true"
    stack = ExitStack()
    stack.callback(os.environ.pop, name, None)
    return stack


def _teams(server: Server, folder: Path) -> list[Target]:
    """Make the teams; return where each sends its calls, with its key."""
    admin = next(folder.glob("keys-*/admin.key")).read_text().strip()
    base = f"http://127.0.0.1:{server.target.port}/v1/admin"
    targets = []
    with httpx.Client(headers={"Authorization": f"Bearer {admin}"}) as http:
        for number in range(TEAMS):
            team = f"team-{number}"
            http.post(f"{base}/teams", json={"team": team}).raise_for_status()
            key = http.post(f"{base}/keys", json={"team": team}, headers={"Idempotency-Key": team}).raise_for_status()
            targets.append(replace(server.target, token=key.json()["token"]))
    return targets


def _measure(targets: Sequence[Target], options: Options, rate: float, seed: int) -> list[Reply]:
    """Let every team send its share of the steps; return all replies."""
    share = rate / len(targets)
    count = max(2, round(options.seconds * share))

    async def everyone() -> list[Reply]:
        declared = [open_loop(target, [bodies.declare(f"run-{seed}")], 1.0) for target in targets]
        await asyncio.gather(*declared)
        sent = [
            _paced(target, _calls(count, options.groups, seed, 1.0 / share), place / rate)
            for place, target in enumerate(targets)
        ]
        return [reply for replies in await asyncio.gather(*sent) for reply in replies]

    return asyncio.run(everyone())


async def _paced(target: Target, calls: Sequence[tuple[float, Call]], begins_s: float) -> list[Reply]:
    """Send each call when it is due, seconds after the beginning."""
    began = time.perf_counter() + begins_s
    async with connections(target, CONNECTIONS) as idle:

        async def one(due_s: float, call: Call) -> Reply:
            due = began + due_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            connection = await idle.get()
            status, body = await connection.send(call)
            idle.put_nowait(connection)
            if status != HTTPStatus.OK:
                raise RuntimeError(f"{call.name}: {status} {body[:200]!r}")
            return Reply(call, status, body, time.perf_counter() - due)

        return list(await asyncio.gather(*(one(due_s, call) for due_s, call in calls)))


def _calls(count: int, groups: int, seed: int, step_s: float) -> list[tuple[float, Call]]:
    """Return the calls of `count` steps and when each is due, seconds from the first."""
    of_run = bodies.Groups(f"run-{seed}", seed)
    steps = [of_run.batch(groups, step + 1) for step in range(count)]
    return [
        (step * step_s + place * LAG_S, call) for step, calls in enumerate(steps) for place, call in enumerate(calls)
    ]


def _latencies(replies: Sequence[Reply], call: str) -> str:
    found = np.array([reply.latency_s for reply in replies if reply.call.name == call]) * 1e3
    return "{:.0f}, {:.0f}".format(*np.percentile(found, [50, 99]))


if __name__ == "__main__":
    raise SystemExit(main())
