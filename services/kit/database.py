"""Database engines: SQLite for one embedded process, PostgreSQL by URL for everything else.

Plain URLs are enough: `sqlite:///FILE`, `postgresql://USER:PASSWORD@HOST/NAME`; the asynchronous drivers are chosen here.
SQLite runs in write-ahead mode with full synchronisation, so that what was acknowledged survives `kill -9`, and every
transaction that may write takes the write lock at its start (BEGIN IMMEDIATE), so that none fails half-way for want of
it (`session.Database.snapshot` only reads). Errors show statements without their parameters, which hold prompts; for
the same reason a SQLite file is made for its owner alone.
"""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from services.kit import in_place

BUSY_TIMEOUT_S = 5
"""Longest wait for SQLite's write lock before a request is shed with 503."""
PROMPT_TIMEOUT_S = 0.1
"""The same for short transactions in place, which keep the whole process waiting: writers of one process take turns, so it is
another process that holds the file, and none of ours does while it is served."""
LARGE_FILES = "cache_size=-65536"
"""Up to 64 MB of pages in memory, in the one connection for short transactions: ids are hashes, so a batch of 512 groups touches
a thousand pages anywhere in a large file."""
LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 10_000
"""PostgreSQL's bounds of one lock and one statement: a request that waits longer is shed with 503 (G12)."""
ALWAYS = "-c timezone=UTC -c jit=off"
"""Statements are short: to compile one takes PostgreSQL longer than to run it."""
GONE = "-c tcp_keepalives_idle=20 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
"""PostgreSQL lets go of what a process held, locks included, within a minute of its host's silent end."""
POOL_SIZE = 10
"""Connections per process: enough to keep a small PostgreSQL busy, far below its default of 100."""

PROBE_TIMEOUT_S = 10.0
"""Longest wait for a first connection: a host that drops packets would hold the start up for minutes."""
PROBE_EVERY_S = 1.0
"""Pause between two tries to reach a database that is waited for."""


class Unreachable(Exception):
    """A database that may come back: the line says which one and why, without the password."""


def probe(url: str) -> None:
    """Connect once.

    Raises:
        ValueError, OSError: this can never be a database of ours: its URL or its folder.
        Unreachable: there is no connection now.
    """

    async def reach() -> None:
        engine = connect(url)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S), engine.connect():
                pass
        except (SQLAlchemyError, TimeoutError) as error:
            cause = getattr(error, "orig", None) or str(error) or f"no answer within {PROBE_TIMEOUT_S:g} s"
            place = make_url(url).set(query={}).render_as_string()
            raise Unreachable(f"no connection to {place}: {' '.join(str(cause).split())}") from error
        finally:
            await engine.dispose()

    asyncio.run(reach())


def reach(url: str, wait_s: float) -> None:
    """Connect once, within `wait_s`: nothing tells when a server that is starting answers, so it is asked again.

    Raises:
        ValueError, OSError, Unreachable: as `probe`; the last only after `wait_s`.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            return probe(url)
        except Unreachable:
            if time.monotonic() + PROBE_EVERY_S > until:
                raise
        time.sleep(PROBE_EVERY_S)


def require_file(url: str) -> None:
    """Refuse a SQLite file that is not there: to connect would make an empty one, where a mistyped folder was meant.

    Raises:
        ValueError: it is not there, or the URL cannot be read.
    """
    file = _file(_parsed(url))
    if file is not None and not file.exists():
        raise ValueError(f"there is no database at {file}: name its folder with --data, or its file in the settings")


@contextmanager
def alone(url: str, advice: str = "a SQLite file is for one; several take PostgreSQL") -> Iterator[None]:
    """Hold a SQLite file for this process while it serves; nothing for PostgreSQL. `kill -9` lets go of it too.

    Args:
        url: of the database.
        advice: what the error says to do.

    Raises:
        OSError: another process serves from it.
    """
    database = _file(_parsed(url))
    if database is None:
        yield
        return
    file = Path(f"{database}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OSError(f"another process serves from {database}: {advice}") from None
        yield


def connect(url: str) -> AsyncEngine:
    """Return an engine for `url`; creates a SQLite file (mode 0600) and its folder.

    Raises:
        ValueError: the URL names neither SQLite nor PostgreSQL.
        OSError: the file cannot be created.
    """
    parsed = _parsed(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if (file := _file(parsed)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)  # its -wal and -shm take over the mode
        return _sqlite(parsed.set(drivername="sqlite+aiosqlite"))
    if backend == "postgresql":
        bounds = f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS} {ALWAYS} {GONE}"
        return create_async_engine(
            parsed.set(drivername="postgresql+psycopg"),
            connect_args={"options": bounds, "client_encoding": "utf8"},  # whatever the database was made with
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
        )
    raise ValueError(f"database URL {parsed.render_as_string()!r} names neither sqlite nor postgresql")


def prompt(engine: AsyncEngine) -> AsyncEngine:
    """Return an engine on the same database for short transactions, at most one at a time: this one, except with SQLite.

    A file is then opened a second time, in place; both are let go of together.
    """
    if _file(engine.url) is None:
        return engine
    quick = _sqlite(
        engine.url.set(drivername=in_place.DRIVER),
        {"timeout": PROMPT_TIMEOUT_S, "check_same_thread": False, "factory": in_place.Connection},
        poolclass=AsyncAdaptedQueuePool,
        pool_size=1,
    )
    event.listen(quick.sync_engine, "connect", lambda connection, _record: connection.execute(f"PRAGMA {LARGE_FILES}"))
    event.listen(engine.sync_engine, "engine_disposed", lambda _engine: quick.sync_engine.dispose())
    return quick


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        raise ValueError("the database URL cannot be read; it is like sqlite:///FILE or postgresql://...") from None


def _file(url: URL) -> Path | None:
    """Return the file of a SQLite database; None of one in memory, and of PostgreSQL."""
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"}:
        return None
    return Path(url.database or "")


def _sqlite(url: URL, arguments: dict[str, Any] | None = None, **pool: Any) -> AsyncEngine:
    engine = create_async_engine(
        url,
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None, **(arguments or {})},
        hide_parameters=True,
        **pool,
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    if url.drivername != in_place.DRIVER:  # which begins by itself
        event.listen(engine.sync_engine, "begin", _begin_immediate)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Set a connection up; 32 MB may be written ahead before a commit has to copy them to their place (`session.checkpoint`)."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=8000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    snapshot = connection.get_execution_options().get("snapshot", False)
    connection.exec_driver_sql("BEGIN" if snapshot else "BEGIN IMMEDIATE")
