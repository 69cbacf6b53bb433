"""SQLite under an asynchronous engine, at one hop to a thread per statement and none for a quick one.

A statement that may take long, or wait for the disk or a lock, runs in a thread, and its rows are fetched there. One that
finds its few rows by their keys takes some microseconds, less than the way to a thread and back: it says so by the
execution option `quick` and runs where it is. BEGIN IMMEDIATE is tried where it is, without waiting; only if somebody
holds the file does a thread wait for it. COMMIT always goes to a thread: it waits for the disk.

A cancelled request waits for its statement to end before anything else is done with the connection.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import AsyncAdaptedQueuePool, Pool, StaticPool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPICursor, ExecutionContext
from sqlalchemy.util import await_only

DRIVER = "sqlite+threads"
"""Name of the driver in URLs of engines; importing this module makes it known."""
QUICK = {"quick": True}
"""Execution options of statements that find a few rows by their keys."""
QUICK_ROWS = 32
"""Most parameter sets of a quick statement: a millisecond of the event loop."""

Result = TypeVar("Result")


class Cursor:
    """A DBAPI cursor over `sqlite3`'s, whose rows are fetched where the statement runs."""

    arraysize = 1

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.quick = False
        self._cursor = connection.cursor()
        self._rows: deque[Any] = deque()

    @property
    def description(self) -> Any:
        """Columns of the rows, None without any."""
        return self._cursor.description

    @property
    def rowcount(self) -> int:
        """Rows that were changed."""
        return self._cursor.rowcount

    @property
    def lastrowid(self) -> int | None:
        """Number that the database gave the last inserted row."""
        return self._cursor.lastrowid

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Run one statement."""

        def work() -> list[Any]:
            self._cursor.execute(statement, parameters)
            return self._cursor.fetchall() if self._cursor.description else []

        self._rows = deque(_here(work) if self.quick else _in_thread(work))

    def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each set of parameters."""
        where = _here if self.quick and len(parameters) <= QUICK_ROWS else _in_thread
        where(lambda: self._cursor.executemany(statement, parameters))

    def fetchone(self) -> Any:
        """Return the next row, None after the last."""
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next rows."""
        return [self._rows.popleft() for _ in range(min(size or self.arraysize, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        """Return all further rows."""
        some = list(self._rows)
        self._rows.clear()
        return some

    def close(self) -> None:
        """Forget the rows."""
        self._rows.clear()
        self._cursor.close()

    async def _async_soft_close(self) -> None:
        """Obeys the asynchronous engine, which asks for this once it holds the result: the rows are here already."""


class Connection:
    """A DBAPI connection over `sqlite3`'s. It waits for no lock unless told to (`begin`)."""

    def __init__(self, connection: sqlite3.Connection, wait_s: float) -> None:
        self._wait_ms = int(wait_s * 1000)
        self.driver_connection = connection

    def cursor(self) -> Cursor:
        """Return a cursor."""
        return Cursor(self.driver_connection)

    def begin(self) -> None:
        """Take the write lock.

        Raises:
            sqlite3.OperationalError: somebody else held it for too long.
        """
        connection = self.driver_connection
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            connection.execute(f"PRAGMA busy_timeout = {self._wait_ms}")
            _in_thread(lambda: connection.execute("BEGIN IMMEDIATE"))
        else:
            connection.execute(f"PRAGMA busy_timeout = {self._wait_ms}")

    def commit(self) -> None:
        """Commit, and wait for the disk."""
        if self.driver_connection.in_transaction:
            _in_thread(self.driver_connection.commit)

    def rollback(self) -> None:
        """Undo what was not committed."""
        if self.driver_connection.in_transaction:
            self.driver_connection.rollback()

    def close(self) -> None:
        """Close the file."""
        self.driver_connection.close()

    def __getattr__(self, name: str) -> Any:
        """Everything else is as in `sqlite3`: what the dialect sets up on a connection runs where it is."""
        return getattr(self.driver_connection, name)


class Dialect(SQLiteDialect_pysqlite):
    """SQLAlchemy's dialect of `sqlite3`, asynchronous over the connection above."""

    driver = "threads"
    is_async = True
    supports_statement_cache = True

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        """Return the pool: one connection in all for a database in memory."""
        return AsyncAdaptedQueuePool if cls._is_url_file_db(url) else StaticPool

    def connect(self, *arguments: Any, **options: Any) -> Any:
        """Connect; `timeout` is how long locks are waited for, in seconds."""
        wait_s = options.pop("timeout", 5.0)
        options["check_same_thread"] = False  # one at a time, whichever it is
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect
        return Connection(connect(*arguments, timeout=wait_s, **options), wait_s)

    def do_execute(
        self, cursor: DBAPICursor, statement: str, parameters: Any, context: ExecutionContext | None = None
    ) -> None:
        """Run a statement where its options say."""
        _choose(cursor, context)
        cursor.execute(statement, parameters)

    def do_executemany(
        self, cursor: DBAPICursor, statement: str, parameters: Any, context: ExecutionContext | None = None
    ) -> None:
        """Run a statement for each set of parameters, where its options say."""
        _choose(cursor, context)
        cursor.executemany(statement, parameters)

    def get_driver_connection(self, connection: Any) -> Any:
        """Return the connection of `sqlite3`."""
        return connection.driver_connection


registry.register(DRIVER.replace("+", "."), __name__, "Dialect")


def _choose(cursor: Any, context: ExecutionContext | None) -> None:
    cursor.quick = context is not None and bool(context.execution_options.get("quick", False))


def _here(work: Callable[[], Result]) -> Result:
    """Work at once, as a coroutine that never waits: the asynchronous engine insists on one."""

    async def done() -> Result:
        return work()

    return await_only(done())


def _in_thread(work: Callable[[], Result]) -> Result:
    return await_only(_whole(work))


async def _whole(work: Callable[[], Result]) -> Result:
    """Run in a thread; a cancellation is passed on when the work has ended, so that no two use one connection."""
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            await asyncio.wait([running])
        raise
