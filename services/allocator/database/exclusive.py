"""How a migration gets the tables to itself on PostgreSQL while requests go on: without a deadlock, and in bounded time.

Requests hold several tables until they commit. A migration that holds one table and waits for the next is soon waited
for by what it waits for; PostgreSQL then ends one of the two. So nothing is changed before all tables are had, and they
are taken in two steps:

1. In a mode that no request minds (SHARE UPDATE EXCLUSIVE). It keeps autovacuum out, and ends one that is at it.
2. For oneself, all in one statement, in the order in which requests take them. It ends by itself in half the time after
   which PostgreSQL looks for deadlocks: a request that came in another order goes on then, and none is ever ended.

From there on a migration waits for nobody. Where the tables were not had, the transaction is tried again as a whole,
after a pause in which it holds nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rollout_budget.errors import Unavailable
from services.kit.database import LOCK_TIMEOUT_MS

TABLES = (
    "teams",
    "closures",
    "idempotency",
    "keys",
    "restores",
    "runs",
    "groups",
    "plans",
    "accounts",
    "reservations",
    "checkpoints",
    "entries",
    "archives",
    "archived_sums",
    "balances",
    "outbox",
    "histories",
    "usage_sums",
    "changes",
)
"""In the order in which most requests take them, so that those at work are waited for once, at the first."""
TRIES = 20
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 4.0
"""Pauses between tries grow twofold up to this: about a minute in all, longer than requests, audits by the minute and
most reports hold a table."""
AGAIN = frozenset({"55P03", "40P01"})
"""PostgreSQL's codes of a lock that was not had in time, and of who was ended in a deadlock: nothing has changed."""
_CANCELLED = "57014"
_IN_TIME = "SELECT setting::integer / 2 FROM pg_settings WHERE name = 'deadlock_timeout'"
_HOLDER = """
SELECT a.pid, coalesce(a.state, a.backend_type) AS state, extract(epoch FROM clock_timestamp() - a.xact_start) AS age_s
FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND c.relname = ANY(:tables) AND c.relnamespace = current_schema()::regnamespace
AND a.datname = current_database() AND a.pid <> pg_backend_pid() ORDER BY a.xact_start LIMIT 1
"""
Pause = Callable[[float], Awaitable[None]]
_log = structlog.get_logger(__name__)


class Held(Exception):
    """The tables were not had in time."""


async def again(engine: AsyncEngine, work: Callable[[], Awaitable[None]], pause: Pause = asyncio.sleep) -> None:
    """Do a transaction as `work`; again where others held what it needs, `TRIES` times at most.

    Raises:
        Unavailable: they held it at every try; the message says who. Nothing was changed.
    """
    for tries in range(1, TRIES + 1):
        try:
            await work()
        except (Held, DBAPIError) as error:
            if not isinstance(error, Held) and _code(error) not in AGAIN:
                raise
            holder = await _holder(engine)
            if tries == TRIES:
                raise Unavailable(
                    f"nothing was changed: {TRIES} times a table was held by others, {holder}. Run it again when that "
                    "has ended; `SELECT pg_terminate_backend(PID)` ends it"
                ) from error
            longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (tries - 1))
            wait_s = random.uniform(longest_s / 2, longest_s)  # noqa: S311  chance, no secret
            _log.warning("a table is held by others; the migration is tried again", tries=tries, holder=holder)
            await pause(wait_s)
        else:
            return


async def take(connection: AsyncConnection) -> None:
    """Lock all tables of ours that there are until the transaction ends.

    Raises:
        Held: they were not had in time; the transaction is to be rolled back.
    """
    names = await connection.run_sync(_present)
    if not names:
        return
    listed = ", ".join(f'"{name}"' for name in names)
    in_time_ms = min(int(await connection.scalar(text(_IN_TIME)) or 0), LOCK_TIMEOUT_MS)
    await connection.execute(text(f"LOCK TABLE {listed} IN SHARE UPDATE EXCLUSIVE MODE"))
    await connection.execute(text(f"SET LOCAL statement_timeout = {max(in_time_ms, 1)}"))
    try:
        await connection.execute(text(f"LOCK TABLE {listed} IN ACCESS EXCLUSIVE MODE"))
    except OperationalError as error:
        if _code(error) == _CANCELLED:
            raise Held from error
        raise
    await connection.execute(text("SET LOCAL statement_timeout = 0"))


def _present(connection: Connection) -> list[str]:
    there = set(inspect(connection).get_table_names())
    return [name for name in TABLES if name in there]


async def _holder(engine: AsyncEngine) -> str:
    """Say whose transaction holds one of our tables for the longest time."""
    async with engine.connect() as connection:
        row = (await connection.execute(text(_HOLDER), {"tables": list(TABLES)})).one_or_none()
    if row is None:
        return "who have let go by now"
    age = "" if row.age_s is None else f" for {row.age_s:.0f} s"
    return f"the longest by process {row.pid} ({row.state}{age})"


def _code(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)
