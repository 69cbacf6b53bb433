"""Whose turn it is: to carry evidence away, or entries into files. Of all processes on one PostgreSQL, one at a time.

The turn is an advisory lock of a database connection that is in no transaction meanwhile. It ends with the connection, so
that a process that is killed in the middle keeps nobody waiting: what it had not yet carried is carried by the next.
Should the connection be lost while its process goes on, two may carry the same: both prior sources know a row of evidence
by its id, and an archive is recorded once or not at all. SQLite has one process, which needs no turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rollout_budget.errors import Unavailable

EVIDENCE = 0x65766964
ARCHIVE = 0x61726368
"""Numbers of the advisory locks."""
_TAKE = text("SELECT pg_try_advisory_lock(:number)")
_GIVE = text("SELECT pg_advisory_unlock(:number)")
_AWAY = "the database is busy or away; nothing was carried"


@asynccontextmanager
async def turn(engine: AsyncEngine, number: int) -> AsyncIterator[bool]:
    """Enter a round of this work; yields False at once where another process is in one.

    Raises:
        Unavailable: the database is away.
    """
    if engine.dialect.name != "postgresql":
        yield True
        return
    try:
        connection = await engine.connect()
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise Unavailable(_AWAY) from error
    try:
        taken = await _taken(connection, number)
        try:
            yield taken
        finally:
            if taken:
                await _give(connection, number)
    finally:
        await connection.close()


async def _taken(connection: AsyncConnection, number: int) -> bool:
    try:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        return bool(await connection.scalar(_TAKE, {"number": number}))
    except (OperationalError, InterfaceError) as error:
        raise Unavailable(_AWAY) from error


async def _give(connection: AsyncConnection, number: int) -> None:
    """Give the turn back; a connection that cannot say so is dropped, and the turn with it."""
    try:
        await connection.execute(_GIVE, {"number": number})
    except BaseException as error:
        await connection.invalidate()
        if not isinstance(error, (OperationalError, InterfaceError)):
            raise
