"""Archives of several databases, or two at once, lose nothing to each other (G5, G9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollout_budget.errors import Conflict
from rollout_budget.ledger.base import Account
from rollout_budget.wire import RunLimits
from services.allocator.database.archive import Archive, Part, decode
from services.allocator.database.folder import Folder
from services.allocator.database.turns import ARCHIVE, turn
from services.kit.database import connect
from tests.allocator.databases import fresh_postgres, fresh_sqlite
from tests.allocator.test_archive import World, opened, some_days


async def ended(world: World) -> None:
    """Book a day, and let everything of it end."""
    await some_days(world, 1)
    async with world.store.transaction() as transaction:
        await transaction.ledger.expire()


async def test_two_archives_at_once_into_one_folder(any_database: str, tmp_path: Path) -> None:
    """The second is told so before it reads anything; the first goes on, and everything is as if it had been alone."""
    async with opened(any_database, tmp_path) as world:
        await ended(world)
        before, first = await world.sums(), world.archive.store(world.today)
        parts = [await anext(first)]
        with pytest.raises(OSError, match=r"another archive writes to .*archive: run this again when it has ended"):
            await world.carry_out()
        parts += [part async for part in first]
        assert [part.team for part in parts] == ["a", "b"]
        assert await world.sums() == before
        assert await world.archive.verify() == []


@pytest.mark.postgres
async def test_two_archives_at_once_of_one_database(tmp_path: Path) -> None:
    """On another machine, into another folder: one has the turn, the other is told so and has written nothing."""
    async with opened(fresh_postgres(), tmp_path) as world:
        await ended(world)
        other = connect(world.database.engine.url.render_as_string(hide_password=False))
        async with turn(other, ARCHIVE) as theirs:
            assert theirs
            with pytest.raises(Conflict, match="another archive is at work on this database"):
                await world.carry_out()
            assert list(world.folder.iterdir()) == []
        await other.dispose()
        assert await world.carry_out()


async def test_a_file_of_another_database_is_not_written_over(tmp_path: Path) -> None:
    """Teams, days and ids of two databases are often the same; the second says so, and keeps its entries."""
    async with opened(fresh_sqlite(tmp_path), tmp_path) as one:
        await ended(one)
        [part, _] = await one.carry_out()
        async with opened(fresh_sqlite(tmp_path), tmp_path) as other:
            async with other.store.transaction() as transaction:
                await transaction.ledger.open_account(Account("a", "another"), RunLimits())
            await other.reserve(Account("a", "another"), "another", 1)
            await ended(other)
            count, sums = await other.live(), await other.sums()
            with pytest.raises(ValueError, match=f"{part.file} is there already and holds something else"):
                await other.carry_out("a")
            assert (await other.live(), await other.sums()) == (count, sums)
        assert await one.archive.verify() == []


async def test_g09_what_a_killed_archive_left_is_written_over_by_more(
    any_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that was booked on the day meanwhile is in the file that the next try writes, after those of the first."""
    async with opened(any_database, tmp_path) as world:
        assert await world.reserve(Account("a", "r"), "n", 2) == 2
        await world.settle("n", 2)
        await world.reserve(Account("b", "r"), "newest", 1)
        world.days = 1
        with monkeypatch.context() as killed:
            killed.setattr(Archive, "_record", _killed)
            with pytest.raises(ConnectionResetError):
                await world.carry_out("a")
        [file] = world.folder.rglob("*.gz")
        left = decode(file.read_bytes())[1]
        world.days = 0
        assert await world.reserve(Account("a", "r"), "more", 1) == 1
        await world.settle("more", 1)
        await world.reserve(Account("b", "r"), "newer", 1)
        world.days = 1
        assert await world.carry_out("a")
        written = decode(file.read_bytes())[1]
        assert written[: len(left)] == left
        assert len(written) > len(left)
        assert await world.archive.verify() == []


async def _killed(_archive: Archive, _connection: Any, _part: Part) -> None:
    raise ConnectionResetError


async def test_names_that_hold_line_separators_come_back(any_database: str, tmp_path: Path) -> None:
    """A run's id may hold them; only the ends of lines are ends of lines."""
    run = Account("a", "one\u2028two\x85three")
    async with opened(any_database, tmp_path) as world:
        async with world.store.transaction() as transaction:
            await transaction.ledger.open_account(run, RunLimits())
        assert await world.reserve(run, "n", 2) == 2
        await world.settle("n", 2)
        await ended(world)
        assert await world.carry_out()
        assert await world.archive.verify() == []


def test_a_file_that_cannot_be_written_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, say."""

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    folder = Folder(tmp_path)
    folder.write("day.gz", b"old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write("day.gz", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["day.gz"]
    assert folder.read("day.gz") == b"old"
    assert folder.read("another.gz") is None
