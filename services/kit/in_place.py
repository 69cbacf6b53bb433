"""SQLite on the event loop's own thread: the standard library's driver behind SQLAlchemy's asynchronous engine.

A statement of the request path takes SQLite some 20 us, and to hand it to a thread and back takes five times that. So
short transactions run where they are asked for; whatever may take long (audits, archives, reports) goes through aiosqlite,
in a thread of its own (`session.Database` decides). Owns nothing but that choice: statements, results, transactions and
pool are SQLAlchemy's.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import await_only

DRIVER = "sqlite+in_place"


class Cursor(sqlite3.Cursor):
    """What the engine asks of asynchronous cursors, with nothing to wait for."""

    async def _async_soft_close(self) -> None:
        """Keep the rows: they are read when they are asked for, not fetched ahead."""


class Connection(sqlite3.Connection):
    """Connects cursors of that kind."""

    def cursor(self, factory: Any = Cursor) -> Any:
        """Return a cursor."""
        return super().cursor(factory)


class InPlace(SQLiteDialect_pysqlite):
    """The engine takes a driver that never waits for a mistake: so each statement waits once, for nothing."""

    driver = "in_place"
    is_async = True
    supports_statement_cache = True

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin with the write lock: transactions here are short and may write."""
        dbapi_connection.execute("BEGIN IMMEDIATE")

    def do_execute(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        """Run a statement."""
        await_only(_nothing())
        super().do_execute(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]  # as SQLAlchemy has it

    def do_executemany(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        """Run a statement once for each row."""
        await_only(_nothing())
        super().do_executemany(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]  # likewise


async def _nothing() -> None:
    return


registry.register("sqlite.in_place", __name__, "InPlace")
