"""Brings a database to a schema, the newest or an older one, and says whether it is at the newest.

One transaction each way: all of it takes effect or nothing. On PostgreSQL requests go on meanwhile; how it gets the
tables from them is `exclusive`'s.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.allocator.database import exclusive
from services.allocator.migrations.second_wall import missing_in, raise_wall
from services.kit.database import LOCK_TIMEOUT_MS

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"
BASE = "base"
"""The revision of a database without a table."""
_LOCK = 0x616C6C6F63
"""Key of PostgreSQL's advisory lock under which a database is migrated: two processes may start at once."""


async def upgrade(engine: AsyncEngine, revision: str | None = None, *, pause: exclusive.Pause = asyncio.sleep) -> None:
    """Apply what is missing up to a revision, the newest by default; the wall too, where it could not be put up before.

    On PostgreSQL it waits for another that is at it, and a statement may take as long as a large ledger needs.

    Args:
        engine: the database.
        revision: up to which; where it is reached already, nothing is done.
        pause: waits between tries (`exclusive.again`).

    Raises:
        ValueError: there is no such revision, or the database is at one of a newer release.
        Unavailable: others held a table all the time; nothing was changed.
    """
    target = _known(revision or newest())

    def apply(connection: Connection) -> None:
        if target not in _applied(connection):
            command.upgrade(config(connection), target)
        if target == newest():
            raise_wall(connection)

    await exclusive.again(engine, lambda: _whole(engine, apply, target), pause)


async def downgrade(engine: AsyncEngine, revision: str, *, pause: exclusive.Pause = asyncio.sleep) -> None:
    """Undo what came after a revision; what only the newer schema holds is lost. Arguments and errors as `upgrade`."""
    target = revision if revision == BASE else _known(revision)

    def apply(connection: Connection) -> None:
        if target == BASE or target in _applied(connection):
            command.downgrade(config(connection), target)

    await exclusive.again(engine, lambda: _whole(engine, apply, target), pause)


async def to(engine: AsyncEngine, revision: str) -> None:
    """Bring a database to a revision, up or down; errors as `upgrade`."""
    async with engine.connect() as connection:
        applied = await connection.run_sync(_applied)
    await (downgrade if _known(revision) in applied else upgrade)(engine, revision)


def newest() -> str:
    """Return the revision that this release works with."""
    return _revisions()[-1]


async def found(connection: AsyncConnection) -> str:
    """Return the revision that a database is at, empty without one."""
    return ", ".join(sorted(await connection.run_sync(_heads)))


async def is_current(connection: AsyncConnection) -> bool:
    """Say whether the database is at the newest migration of this code, or at one of a newer release.

    Migrations only add, so a release goes on serving while the next one replaces it.
    """
    heads = await connection.run_sync(_heads)
    return bool(heads) and (heads == {newest()} or not heads & set(_revisions()))


def config(connection: Connection) -> Config:
    """Return alembic's configuration for an open connection."""
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    settings.attributes["connection"] = connection
    return settings


async def _whole(engine: AsyncEngine, apply: Callable[[Connection], None], target: str) -> None:
    """Do all of it in one transaction, with the tables to itself where there is anything to do."""
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(text("SET LOCAL statement_timeout = 0"))
            await connection.execute(text("SET LOCAL lock_timeout = 0"))
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
            unprotected = await connection.run_sync(missing_in)
            if unprotected or await connection.run_sync(_heads) != {target}:
                await exclusive.take(connection)
        await connection.run_sync(apply)


@functools.cache
def _revisions() -> tuple[str, ...]:
    """Return every revision of this release, oldest first: each follows the one before."""
    return tuple(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())[::-1]


def _heads(connection: Connection) -> set[str]:
    return set(MigrationContext.configure(connection).get_current_heads())


def _known(revision: str) -> str:
    known = _revisions()
    if revision not in known:
        raise ValueError(f"there is no schema {revision!r}; this release knows {known[0]} to {known[-1]}")
    return revision


def _applied(connection: Connection) -> tuple[str, ...]:
    """Return the revisions that a database has, oldest first."""
    heads, known = _heads(connection), _revisions()
    if newer := heads - set(known):
        raise ValueError(
            f"the database is at schema {', '.join(newer)}, of a newer release; this one knows up to {known[-1]}: "
            "use the newer release's `migrate`"
        )
    return known[: max((known.index(head) + 1 for head in heads), default=0)]
