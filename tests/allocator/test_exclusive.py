"""G12, G19: a migration gets its tables from requests that hold them, ends no request, and gives up in bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rollout_budget.errors import Unavailable
from services.allocator.__main__ import main
from services.allocator.database import exclusive, migrate
from services.allocator.database.tables import metadata
from services.kit.database import connect
from tests.allocator.databases import migrated
from tests.postgres import postgres_url

__all__ = ["postgres_url"]
pytestmark = pytest.mark.postgres
BEFORE = "0006"
_WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = CAST(:table AS regclass)"


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    """A database some migrations behind."""
    made = connect(migrated(postgres_url))
    await migrate.downgrade(made, BEFORE)
    yield made
    await made.dispose()


async def revision(engine: AsyncEngine) -> str:
    async with engine.connect() as connection:
        return str(await connection.scalar(text("SELECT version_num FROM alembic_version")))


async def someone_waits_for(engine: AsyncEngine, table: str) -> None:
    async with engine.connect() as connection:
        while not await connection.scalar(text(_WAITING), {"table": table}):
            pass


def test_every_table_has_its_place() -> None:
    """One that a migration adds and that is not named here would be waited for in the middle of the next migration."""
    assert sorted(exclusive.TABLES) == sorted(metadata.tables)


async def test_g19_a_migration_outlasts_a_transaction_that_holds_a_table(engine: AsyncEngine) -> None:
    """It lets go of everything between two tries, says who is in its way, and succeeds as soon as that has ended."""
    async with engine.connect() as holder:
        await holder.execute(text("SELECT count(*) FROM groups"))
        paused: list[float] = []

        async def pause(seconds: float) -> None:
            paused.append(seconds)
            async with engine.begin() as request:  # whoever comes meanwhile waits for nothing
                await request.execute(text("SET LOCAL lock_timeout = 1"))
                await request.execute(text("LOCK TABLE teams, runs, groups, entries IN ROW EXCLUSIVE MODE"))
            if len(paused) == 2:
                await holder.rollback()

        await migrate.upgrade(engine, pause=pause)
    assert len(paused) == 2
    assert await revision(engine) == migrate.newest()


async def test_g12_a_request_in_another_order_is_not_ended(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds a late table and asks for an early one, which the migration has: it gets it, and so does the migration.

    The request looks for deadlocks before the migration would, and long after the migration has let go.
    """
    monkeypatch.setattr(exclusive, "LOCK_TIMEOUT_MS", 200)
    paused: list[float] = []
    waits, request_done = asyncio.Event(), asyncio.Event()

    async def pause(seconds: float) -> None:
        paused.append(seconds)
        if waits.is_set():
            await request_done.wait()

    async with engine.connect() as request:
        await request.execute(text("SET LOCAL deadlock_timeout = '700ms'"))
        await request.execute(text("LOCK TABLE entries IN ROW EXCLUSIVE MODE"))
        migration = asyncio.create_task(migrate.upgrade(engine, pause=pause))
        await someone_waits_for(engine, "entries")
        waits.set()
        await request.execute(text("UPDATE runs SET finished = true"))
        await request.commit()
        request_done.set()
    await migration
    assert paused
    assert await revision(engine) == migrate.newest()


async def test_g19_the_victim_of_a_deadlock_tries_again(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a migration may still wait for is not ours; PostgreSQL ends the one that looks first, and it starts anew."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA IF NOT EXISTS of_others"))
        await connection.execute(text("CREATE TABLE IF NOT EXISTS of_others.stranger (n int)"))

    paused: list[float] = []
    reached, other_done = asyncio.Event(), asyncio.Event()

    def reach_out(connection: Connection) -> None:
        reached.set()
        while not other_done.is_set() and not connection.scalar(text(_WAITING), {"table": "runs"}):
            pass  # until the other waits for what the migration holds
        connection.execute(text("LOCK TABLE of_others.stranger IN ACCESS EXCLUSIVE MODE"))

    async def pause(seconds: float) -> None:
        paused.append(seconds)
        await other_done.wait()

    monkeypatch.setattr(migrate, "raise_wall", reach_out)
    async with engine.connect() as other:
        await other.execute(text("SET LOCAL deadlock_timeout = '60s'"))
        await other.execute(text("SET LOCAL lock_timeout = 0"))
        await other.execute(text("LOCK TABLE of_others.stranger IN ACCESS SHARE MODE"))
        migration = asyncio.create_task(migrate.upgrade(engine, pause=pause))
        await reached.wait()
        await other.execute(text("SELECT count(*) FROM runs"))  # waits for the migration, which waits for this
        await other.commit()
        other_done.set()
    await migration
    assert len(paused) == 1
    assert await revision(engine) == migrate.newest()


async def test_g19_a_table_that_is_never_had_ends_it_in_one_line(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many tries, with pauses that grow to a bound, it says who holds the table, and nothing has changed."""
    monkeypatch.setattr(exclusive, "TRIES", 8)
    monkeypatch.setattr(exclusive, "LOCK_TIMEOUT_MS", 10)
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    async with engine.connect() as holder:
        await holder.execute(text("SELECT count(*) FROM groups"))
        pid = await holder.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(Unavailable, match=rf"8 times a table was held .* by process {pid} \(idle in transaction"):
            await migrate.upgrade(engine, pause=pause)
    assert await revision(engine) == BEFORE
    assert len(paused) == 7
    assert [wait <= exclusive.FIRST_PAUSE_S * 2**place for place, wait in enumerate(paused)] == [True] * 7
    assert max(paused) <= exclusive.LONGEST_PAUSE_S < min(paused) * 2**7


async def test_g19_where_there_is_nothing_to_do_no_table_is_asked_for(engine: AsyncEngine) -> None:
    """`migrate` once more, in a deployment's every start, is no moment of silence for requests."""
    await migrate.upgrade(engine)
    async with engine.connect() as holder:
        await holder.execute(text("LOCK TABLE runs, keys, entries IN ROW EXCLUSIVE MODE"))
        await migrate.upgrade(engine, pause=_never)
    assert await revision(engine) == migrate.newest()


async def _never(_seconds: float) -> None:
    raise AssertionError


def test_g19_the_command_goes_to_a_schema_and_knows_which_there_are(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`migrate --to` goes down and up; a mistyped schema, and one of a newer release, are one line each."""
    secrets = {"PEPPER": "p" * 32, "ADMIN_KEY": "a" * 32}
    for name, value in {"MODE": "production", "DATABASE_URL": migrated(postgres_url), **secrets}.items():
        monkeypatch.setenv(f"ROLLOUT_BUDGET_ALLOCATOR_{name}", value)
    for target in ("0007", "0008", "0003"):
        assert main(["migrate", "--to", target]) == 0
        assert asyncio.run(_at(postgres_url)) == target
    assert main(["migrate", "--to", "7"]) == 2
    assert f"there is no schema '7'; this release knows 0001 to {migrate.newest()}" in capsys.readouterr().err
    assert main(["migrate"]) == 0
    asyncio.run(_at(postgres_url, "9999"))
    assert main(["migrate"]) == 2
    assert "the database is at schema 9999, of a newer release" in capsys.readouterr().err
    asyncio.run(_at(postgres_url, migrate.newest()))


async def _at(url: str, stamp: str | None = None) -> str:
    """Return the revision of a database; with `stamp`, say it is at that one."""
    engine = connect(url)
    if stamp is not None:
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = :stamp"), {"stamp": stamp})
    found = await revision(engine)
    await engine.dispose()
    return found
