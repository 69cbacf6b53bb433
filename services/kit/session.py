"""Transactions: bounded waits, one commit, and the database's failures attributed once.

SQLite has one writer, so this process's requests take turns in the order they came, rather than poll for the file's
lock; PostgreSQL needs no turn. A wait that exceeds its bound is `Unavailable`, which leaves the service as 503 (G12).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import aiosqlite
from sqlalchemy import text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import Table

from rollout_budget import tracing
from rollout_budget.errors import OutcomeUnknown, Unavailable
from services.kit.database import prompt

TURN_TIMEOUT_S = 5.0
"""Longest wait for this process's turn to write to SQLite, the same as for the file's own lock."""
CHUNK = 8_000
"""Most ids in one statement: two columns of them stay under SQLite's 32,766 parameters."""

Item = TypeVar("Item")


class CommitUnanswered(Unavailable):
    """A commit was sent and never answered: the transaction may have taken effect. The same request says which."""

    code = OutcomeUnknown.code


class Database:
    """One database: an engine, one for short transactions, and the turn of its writers."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._prompt = prompt(engine)
        self._turn = asyncio.Lock() if engine.dialect.name == "sqlite" else None

    @asynccontextmanager
    async def transaction(self, *, short: bool = False) -> AsyncIterator[AsyncConnection]:
        """Enter a transaction; commits at the end of the block, rolls back if it raises.

        Args:
            short: each statement takes well under the time that others may be kept waiting; SQLite then runs it in place,
                and its results are to be read to their end before the transaction's.

        Raises:
            Unavailable: the database is away, or a lock was not had in time; nothing was stored.
            CommitUnanswered: the database went away while it committed.
        """
        with tracing.span("internal", "database transaction", db__system__name=self.engine.dialect.name):
            async with self._guarded(short=short) as connection:
                yield connection

    @asynccontextmanager
    async def _guarded(self, *, short: bool) -> AsyncIterator[AsyncConnection]:
        """Enter a transaction once it is this one's turn, and say what its failures mean."""
        async with self._turns():
            committing = False
            try:
                async with (self._prompt if short else self.engine).begin() as connection:
                    yield connection
                    committing = True
            except (OperationalError, InterfaceError, PoolTimeout) as error:
                if committing:
                    raise CommitUnanswered("the database went away while it stored this; it may be stored") from error
                raise Unavailable("the database is busy or away; nothing was stored") from error
            except ProgrammingError as error:
                raise _unmigrated(error) from error

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Enter a transaction that only reads, and reads one state: it waits for no writer and keeps none waiting.

        Raises:
            Unavailable: the database is away.
        """
        try:
            async with self.engine.connect() as connection:
                await connection.execution_options(snapshot=True)
                async with connection.begin():
                    if self._turn is None:
                        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
                    yield connection
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            raise Unavailable("the database is busy or away; nothing was stored") from error
        except ProgrammingError as error:
            raise _unmigrated(error) from error

    async def checkpoint(self) -> None:
        """Copy what SQLite has written ahead to its place, in a thread; writers and readers go on meanwhile.

        Left to itself it does so at the end of some commit, which then takes fifty times as long as the others.
        """
        async with self.engine.connect() as connection:
            driver: aiosqlite.Connection = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]  # it is aiosqlite's
            await driver.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @asynccontextmanager
    async def _turns(self) -> AsyncIterator[None]:
        if self._turn is None:
            yield
            return
        try:
            async with asyncio.timeout(TURN_TIMEOUT_S):
                await self._turn.acquire()
        except TimeoutError as error:
            raise Unavailable("too many requests are waiting to write; nothing was stored") from error
        try:
            yield
        finally:
            self._turn.release()


def _unmigrated(error: ProgrammingError) -> Exception:
    """Return what it means that a table or a column is not there: PostgreSQL says so by these codes, SQLite as busy."""
    if getattr(error.orig, "sqlstate", None) in {"42P01", "42703"}:
        return Unavailable("the database is not at this release's schema: run `migrate`; nothing was stored")
    return error


def insert(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that knows ON CONFLICT, in the connection's dialect."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def chunks(items: Sequence[Item], size: int = CHUNK) -> Iterator[Sequence[Item]]:
    """Cut a sequence into pieces of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))
