"""Whose turn it is to carry evidence away: of all processes on one PostgreSQL, one at a time.

The turn is an advisory lock of a database connection that is in no transaction meanwhile. It ends with the connection, so
that a process that is killed in the middle keeps nobody waiting: what it had not yet taken out of the outbox is carried
by the next. Should the connection be lost while its process goes on, two may carry the same rows: both prior sources
know a row by its id. SQLite has one process, which needs no turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rollout_budget.errors import Unavailable

_LOCK = 0x65766964
_TAKE = text(f"SELECT pg_try_advisory_lock({_LOCK})")
_GIVE = text(f"SELECT pg_advisory_unlock({_LOCK})")


@asynccontextmanager
async def turn(engine: AsyncEngine) -> AsyncIterator[bool]:
    """Enter a round of delivery; yields False at once where another process is in one.

    Raises:
        Unavailable: the database is away.
    """
    if engine.dialect.name != "postgresql":
        yield True
        return
    try:
        connection = await engine.connect()
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise Unavailable("the database is busy or away; nothing was delivered") from error
    try:
        taken = await _taken(connection)
        try:
            yield taken
        finally:
            if taken:
                await _give(connection)
    finally:
        await connection.close()


async def _taken(connection: AsyncConnection) -> bool:
    try:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        return bool(await connection.scalar(_TAKE))
    except (OperationalError, InterfaceError) as error:
        raise Unavailable("the database is busy or away; nothing was delivered") from error


async def _give(connection: AsyncConnection) -> None:
    """Give the turn back; a connection that cannot say so is dropped, and the turn with it."""
    try:
        await connection.execute(_GIVE)
    except BaseException as error:
        await connection.invalidate()
        if not isinstance(error, (OperationalError, InterfaceError)):
            raise
