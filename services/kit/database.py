"""Database engines: SQLite for one embedded process, PostgreSQL by URL for everything else.

Plain URLs are enough: `sqlite:///FILE`, `postgresql://USER:PASSWORD@HOST/NAME`; the asynchronous drivers are chosen here.
SQLite runs in write-ahead mode with full synchronisation, so that what was acknowledged survives `kill -9`, and every
transaction takes the write lock at its start (BEGIN IMMEDIATE), so that none fails half-way for want of it. Errors show
statements without their parameters, which hold prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

BUSY_TIMEOUT_S = 5
"""Longest wait for SQLite's write lock before a request is shed with 503."""
LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 10_000
"""PostgreSQL's bounds of one lock and one statement: a request that waits longer is shed with 503 (G12)."""
POOL_SIZE = 10
"""Connections per process: enough to keep a small PostgreSQL busy, far below its default of 100."""


def connect(url: str) -> AsyncEngine:
    """Return an engine for `url`; creates the folder of a SQLite file.

    Raises:
        ValueError: the URL names neither SQLite nor PostgreSQL.
    """
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_async_engine(
            parsed.set(drivername="sqlite+aiosqlite"),
            connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
            hide_parameters=True,
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_immediate)
        return engine
    if backend == "postgresql":
        bounds = f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC"
        return create_async_engine(
            parsed.set(drivername="postgresql+psycopg"),
            connect_args={"options": bounds},
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
        )
    raise ValueError(f"database URL {parsed.render_as_string()!r} names neither sqlite nor postgresql")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
