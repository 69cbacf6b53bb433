"""Fresh databases for tests, migrated once and then copied (SQLite) or emptied (PostgreSQL)."""

from __future__ import annotations

import asyncio
import functools
import secrets
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from services.allocator.database import migrate
from services.allocator.database.tables import metadata
from services.kit.database import connect
from tests.postgres import server_url


def migrated(url: str) -> str:
    """Bring the database of this URL to the newest schema; return the URL."""

    async def upgrade() -> None:
        engine = connect(url)
        await migrate.upgrade(engine)
        await engine.dispose()

    with ThreadPoolExecutor(1) as thread:  # the caller may be inside an event loop of its own
        thread.submit(lambda: asyncio.run(upgrade())).result()
    return url


@functools.cache
def _sqlite_template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rb-allocator-"))
    migrated(f"sqlite:///{folder / 'template.db'}")
    return folder / "template.db"


def fresh_sqlite(folder: Path) -> str:
    """Return the URL of an empty SQLite database in `folder`."""
    path = folder / f"{secrets.token_hex(4)}.db"
    shutil.copy(_sqlite_template(), path)
    return f"sqlite:///{path}"


@functools.cache
def _postgres() -> str:
    name = f"allocator_{secrets.token_hex(6)}"
    server = make_url(server_url())
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return migrated(server.set(database=name).render_as_string(hide_password=False))


def fresh_postgres() -> str:
    """Return the URL of this process's PostgreSQL database, emptied."""
    names = ", ".join(table.name for table in metadata.sorted_tables)
    with psycopg.connect(_postgres(), autocommit=True) as connection:
        connection.execute(f"TRUNCATE {names}".encode())
    return _postgres()
