"""Part `hot`: 64 clients of one team, each with a run of its own, all charging the same team row.

The reference is what this PostgreSQL itself gives for the bare conditional UPDATE of one row, each committed, from as
many connections as the service has, and from 64. A grant of the service writes five counters, a reservation, an entry and
a group; the reference writes one counter.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence

import psycopg

from benchmarks.allocator import bodies, servers
from benchmarks.allocator.against_bare import SURE
from benchmarks.allocator.load import Call, clients, open_loop
from benchmarks.allocator.options import Figure, Options
from services.kit.database import POOL_SIZE

CLIENTS = 64
EACH = 12
"""Groups that each client opens, one after another, in one repetition."""
UPDATE = b"UPDATE hot SET reserved = reserved + 4 WHERE team = 'default' AND reserved + 4 <= 1000000000"


def hot(options: Options) -> list[Figure]:
    """Reserves per second on one hot team row."""
    return [_hot(options, database) for database in options.databases]


def _hot(options: Options, database: str) -> Figure:
    url = servers.database_url(database, options.folder, options.postgres)
    plain = servers.database_url("postgresql", options.folder, options.postgres)
    each = 3 if options.quick else EACH
    ours: list[float] = []
    pool: list[float] = []
    many: list[float] = []
    with servers.service(database, url, options.folder) as server:
        asyncio.run(open_loop(server.target, [bodies.declare(_run(one)) for one in range(CLIENTS)], SURE, 4))
        asyncio.run(clients(server.target, _scripts(1)))
        for _seed in options.seeds:
            ours.append(CLIENTS * each / asyncio.run(clients(server.target, _scripts(each))))
            pool.append(asyncio.run(updates(plain, POOL_SIZE, CLIENTS * each // POOL_SIZE)))
            many.append(asyncio.run(updates(plain, CLIENTS, each)))
    return Figure(
        "reserves on one hot team row, 64 clients, against PostgreSQL's bare conditional UPDATE",
        database,
        "stated",
        [a / b for a, b in zip(ours, pool, strict=True)],
        statistics.median(ours),
        statistics.median(pool),
        "per s",
        {"bare UPDATE from 64 connections": statistics.median(many)},
    )


async def updates(url: str, connections: int, each: int) -> float:
    """Return bare conditional updates per second of one row, each committed, from this many connections."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(b"CREATE TABLE IF NOT EXISTS hot (team text PRIMARY KEY, reserved bigint NOT NULL)")
        await connection.execute(b"INSERT INTO hot VALUES ('default', 0) ON CONFLICT (team) DO UPDATE SET reserved = 0")
    opened = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(connections)]
    try:
        began = time.perf_counter()

        async def one(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
            for _ in range(each):
                await connection.execute(UPDATE)

        await asyncio.gather(*map(one, opened))
        return connections * each / (time.perf_counter() - began)
    finally:
        for connection in opened:
            await connection.close()


def _scripts(each: int) -> Sequence[Sequence[Call]]:
    return [[bodies.Groups(_run(one), one).batch(1)[0] for _ in range(each)] for one in range(CLIENTS)]


def _run(client: int) -> str:
    return f"hot-{client}"
