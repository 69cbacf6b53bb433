"""Brings a database to the newest schema, and says whether it is there."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.allocator.migrations.second_wall import raise_wall
from services.kit.database import LOCK_TIMEOUT_MS

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"
_LOCK = 0x616C6C6F63
"""Key of PostgreSQL's advisory lock under which a database is migrated: two processes may start at once."""


async def upgrade(engine: AsyncEngine) -> None:
    """Apply what is missing, in one transaction; the wall too, where it could not be put up before.

    On PostgreSQL it waits for another that is at it, and a statement may take as long as a large ledger needs; for a
    table it waits no longer than a request does, for all requests wait behind it.
    """
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(text("SET LOCAL statement_timeout = 0"))
            await connection.execute(text("SET LOCAL lock_timeout = 0"))
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
        await connection.run_sync(lambda sync: command.upgrade(config(sync), "head"))
        await connection.run_sync(raise_wall)


async def is_current(connection: AsyncConnection) -> bool:
    """Say whether the database is at the newest migration of this code, or at one of a newer release.

    Migrations only add, so a release goes on serving while the next one replaces it.
    """
    scripts = ScriptDirectory(str(MIGRATIONS))
    known = {script.revision for script in scripts.walk_revisions()}
    heads = await connection.run_sync(lambda sync: set(MigrationContext.configure(sync).get_current_heads()))
    return bool(heads) and (heads == set(scripts.get_heads()) or not heads & known)


def config(connection: Connection) -> Config:
    """Return alembic's configuration for an open connection."""
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    settings.attributes["connection"] = connection
    return settings
