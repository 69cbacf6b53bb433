"""Carries old entries out of the database into files, without changing a sum; compares the two; forgets finished runs.

A file holds entries of one team and one day: JSON lines under gzip, the first line says what is in it, every other is one
entry with all its columns, in the order of their ids. The same entries make the same bytes. Only days that are over
and whose reservations are all resolved are carried out, for nothing is booked on them any more; the newest entry of all
stays, so that no id is given twice.

In this order: the file is written, flushed, read back and compared; then, in one transaction under the team's row, the
archive is recorded with the digest of its file, its sums are added to `archived_sums`, and exactly its entries are
deleted. A trigger lets no other entry go. A crash in between leaves a file and all entries: the next try writes the
same file again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import Row, and_, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import Column, Table

from rollout_budget.errors import Conflict, InvalidInput
from rollout_budget.ledger.base import Account
from rollout_budget.ledger.books import Counts, day_of, grain_sums
from services.allocator.database.accounts import Accounts
from services.allocator.database.balances import GRAIN, add, booked, fold
from services.allocator.database.clock import now_s
from services.allocator.database.folder import Folder
from services.allocator.database.ledger import SqlLedger
from services.allocator.database.lines import as_entry
from services.allocator.database.tables import (
    NO_STEP,
    archived_sums,
    archives,
    entries,
    groups,
    plans,
    reservations,
    runs,
)
from services.allocator.database.turns import ARCHIVE, turn
from services.kit.session import Database

FORMAT = "rollout-budget entries 1"
MOST_ROWS = 20_000
"""Entries in one file, and rows forgotten at once: their deletion holds the team's row for well under a second."""
COLUMNS = tuple(column.name for column in entries.columns)


@dataclass(frozen=True, slots=True)
class Part:
    """One file: entries of one team and day with ids from `first` to `last`."""

    team: str
    day: str
    first: int
    last: int
    rows: int
    file: str
    digest: str


def file_of(team: str, day: str, first: int) -> str:
    """Return the name of a file under the archive's folder; a team's name may hold any character, its digest does not."""
    return f"{hashlib.sha256(team.encode()).hexdigest()[:16]}/{day}-{first}.jsonl.gz"


def encode(team: str, day: str, rows: Sequence[Row[Any]]) -> bytes:
    """Return the bytes of a file; the same rows give the same bytes."""
    head = {"format": FORMAT, "team": team, "day": day, "rows": len(rows)}
    lines = [head, *({name: getattr(row, name) for name in COLUMNS} for row in rows)]
    text = "".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in lines)
    return gzip.compress(text.encode(), mtime=0)


def decode(data: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what a file says of itself, and its entries.

    Raises:
        ValueError: the bytes are not such a file.
    """
    try:
        head, *rows = [json.loads(line) for line in gzip.decompress(data).decode().removesuffix("\n").split("\n")]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    if head.get("format") != FORMAT or head.get("rows") != len(rows):
        raise ValueError("this is no whole archive of entries")
    return head, rows


class Archive:
    """The files under `folder` and the database they belong to; `clock_offset_s` is added to its clock, for tests alone."""

    def __init__(self, database: Database, folder: Path, clock_offset_s: float = 0.0) -> None:
        self._database = database
        self._folder = Folder(folder)
        self._offset_s = clock_offset_s

    async def store(self, before: date, team: str | None = None) -> AsyncIterator[Part]:
        """Carry out the entries of days before `before`, of one team or of all; yield every file when it is recorded.

        Raises:
            InvalidInput: the day has not begun yet, or there is no such team.
            Conflict, OSError: another archive is at work on this database, or writes to this folder.
            ValueError: a file is of another database, or did not read back as it was written; its entries stay where
                they are.
        """
        with self._folder.alone():
            async with turn(self._database.engine, ARCHIVE) as ours:
                if not ours:
                    raise Conflict("another archive is at work on this database: run this again when it has ended")
                async for part in self._parts(before, team):
                    yield part

    async def _parts(self, before: date, team: str | None) -> AsyncIterator[Part]:
        async with self._database.snapshot() as connection:
            today = day_of(float(await connection.scalar(select(now_s())) or 0.0) + self._offset_s)
        if before.isoformat() > today:
            raise InvalidInput(f"only days that are over can be archived: it is {today}")
        await self._let_go(before.isoformat(), team)
        for name, day in await self._days(before.isoformat(), team):
            while (part := await self._store_part(name, day)) is not None:
                yield part

    async def verify(self, team: str | None = None) -> list[str]:
        """Read every file and compare it with what the database says of it; return what is wrong, one line each."""
        async with self._database.snapshot() as connection:
            of_team = [] if team is None else [archives.c.team == team]
            recorded = (
                await connection.execute(select(archives).where(*of_team).order_by(archives.c.first_entry))
            ).all()
            kept = select(archived_sums) if team is None else select(archived_sums).where(archived_sums.c.team == team)
            sums = {
                tuple(getattr(row, name) for name in GRAIN): Counts(*(getattr(row, name) for name in Counts._fields))
                for row in await connection.execute(kept)
            }
            found: list[str] = []
            total: dict[tuple[Any, ...], Counts] = {}
            for row in recorded:
                found += self._compare(row, total)
                here = select(func.count()).where(_within(row.team, row.day, row.first_entry, row.last_entry))
                if await connection.scalar(here):
                    found.append(f"{row.file}: some of its entries are in the database still")
        wrong = sorted(key for key in {*sums, *total} if sums.get(key, Counts()) != total.get(key, Counts()))
        return found + [
            f"team {key[0]!r}, run {key[1]!r}, day {key[3]}: the files and the sums kept differ" for key in wrong
        ]

    async def _let_go(self, before: str, team: str | None) -> None:
        """Give back what is held of those days and whose lease is over: nobody may have needed it since."""
        held = (reservations.c.state == "reserved", reservations.c.day < before)
        due = select(reservations.c.team, reservations.c.run).where(
            *held, reservations.c.expires_s <= now_s() + self._offset_s
        )
        due = due if team is None else due.where(reservations.c.team == team)
        async with self._database.snapshot() as connection:
            found = (await connection.execute(due.distinct())).all()
        for row in found:
            async with self._database.transaction() as connection:
                ledger = SqlLedger(connection, self._offset_s)
                await ledger.expire(Account(row.team, row.run))
                await ledger.flush()

    async def _days(self, before: str, team: str | None) -> list[tuple[str, str]]:
        """Return teams and days that are over and have nothing held on them."""
        held = (
            select(reservations.c.team)
            .where(
                reservations.c.team == entries.c.team,
                reservations.c.day == entries.c.day,
                reservations.c.state == "reserved",
            )
            .exists()
        )
        wanted = select(entries.c.team, entries.c.day).where(entries.c.day < before, ~held).distinct()
        wanted = wanted if team is None else wanted.where(entries.c.team == team)
        async with self._database.snapshot() as connection:
            rows = (await connection.execute(wanted.order_by(entries.c.team, entries.c.day))).all()
        return [(row.team, row.day) for row in rows]

    async def _store_part(self, team: str, day: str) -> Part | None:
        newest = select(func.max(entries.c.entry_id)).scalar_subquery()  # stays: SQLite would give its id again
        here = (entries.c.team == team, entries.c.day == day, entries.c.entry_id < newest)
        query = select(entries).where(*here).order_by(entries.c.entry_id)
        async with self._database.snapshot() as connection:
            rows = (await connection.execute(query.limit(MOST_ROWS))).all()
        if not rows:
            return None
        data = encode(team, day, rows)
        name = file_of(team, day, rows[0].entry_id)
        self._require_ours(name, data)
        self._folder.write(name, data)
        digest = hashlib.sha256(data).hexdigest()
        part = Part(team, day, rows[0].entry_id, rows[-1].entry_id, len(rows), name, digest)
        async with self._database.transaction() as connection:
            await self._record(connection, part)
        return part

    async def _record(self, connection: AsyncConnection, part: Part) -> None:
        """Record an archive, add its sums, delete its entries: all or nothing."""
        while not await fold(connection, part.team):
            pass  # what is carried out stands in the balances before it goes
        held = select(func.count()).where(
            reservations.c.team == part.team, reservations.c.day == part.day, reservations.c.state == "reserved"
        )
        if await connection.scalar(held):
            raise Conflict(f"team {part.team!r} holds rollouts of {part.day} again; nothing was archived")
        inside = _within(part.team, part.day, part.first, part.last)
        row = {name: getattr(part, name) for name in ("team", "day", "rows", "file", "digest")}
        await connection.execute(
            archives.insert().values(**row, first_entry=part.first, last_entry=part.last, archived_s=now_s())
        )
        await add(connection, archived_sums, booked(inside))
        gone = (await connection.execute(delete(entries).where(inside))).rowcount
        if gone != part.rows:
            raise Conflict(f"{part.rows} entries of {part.day} were written and {gone} are there; nothing was archived")

    def _require_ours(self, name: str, data: bytes) -> None:
        """Refuse to write over a file that holds anything but the first of these entries, as one that was killed left it.

        Raises:
            ValueError: there is another one of this name, of another database say.
        """
        there = self._folder.read(name)
        if there is None or there == data:
            return
        try:
            _, lines = decode(there)
        except ValueError:
            lines = [{}]
        if lines != decode(data)[1][: len(lines)]:
            raise ValueError(
                f"{self._folder}/{name} is there already and holds something else: is this the folder of another database? "
                "Name another with --to"
            )

    def _compare(self, row: Row[Any], total: dict[tuple[Any, ...], Counts]) -> list[str]:
        """Compare one file with its record; add its sums to `total`."""
        try:
            data = self._folder.read(row.file)
            if data is None:
                return [f"{row.file}: is gone"]
            head, lines = decode(data)
        except (OSError, ValueError) as error:
            return [f"{row.file}: cannot be read: {error}"]
        for (account, policy, day, step), counts in grain_sums(
            as_entry(cast("Row[Any]", SimpleNamespace(**line))) for line in lines
        ).items():
            key = (account.team, account.run, policy, day, NO_STEP if step is None else step)
            total[key] = total.get(key, Counts()).plus(counts)
        if hashlib.sha256(data).hexdigest() != row.digest:
            return [f"{row.file}: its SHA-256 is not the one recorded"]
        ids = [line["entry_id"] for line in lines]
        told = (head["team"], head["day"], len(lines), min(ids), max(ids))
        return (
            []
            if told == (row.team, row.day, row.rows, row.first_entry, row.last_entry)
            else [f"{row.file}: holds other entries"]
        )


async def prune(database: Database, before: date, team: str | None = None) -> dict[str, int]:
    """Forget reservations, groups and plans of finished runs that granted nothing since `before`; return how many rows.

    Nothing is forgotten of a run that is not finished, that has entries in the database still, or holds anything. The
    run itself stays, finished: it opens no group again, so that an id which is forgotten takes no effect a second time.
    """
    gone = dict.fromkeys(("reservations", "groups", "plans"), 0)
    for name, run in await _over(database, before.isoformat(), team):
        for table, key in (
            (groups, groups.c.group_id),
            (plans, plans.c.entry_id),
            (reservations, reservations.c.id_digest),
        ):
            while forgotten := await _forget(database, table, key, Account(name, run)):
                gone[table.name] += forgotten
    return gone


async def _forget(database: Database, table: Table, key: Column[Any], account: Account) -> int:
    """Delete some rows of a run; return how many: requests of its team wait for no more than that."""
    here = and_(table.c.team == account.team, table.c.run == account.run)
    some = select(key).where(here).limit(MOST_ROWS)
    async with database.transaction() as connection:
        await Accounts(connection).gate(account.team)
        return (await connection.execute(delete(table).where(here, key.in_(some)))).rowcount


async def _over(database: Database, before: str, team: str | None) -> list[tuple[str, str]]:
    live = select(entries.c.entry_id).where(entries.c.team == runs.c.team, entries.c.run == runs.c.run).exists()
    of_run = and_(reservations.c.team == runs.c.team, reservations.c.run == runs.c.run)
    recent = select(reservations.c.team).where(
        of_run, (reservations.c.day >= before) | (reservations.c.state == "reserved")
    )
    query = select(runs.c.team, runs.c.run).where(runs.c.finished.is_(True), ~live, ~recent.exists())
    query = query if team is None else query.where(runs.c.team == team)
    async with database.snapshot() as connection:
        return [(row.team, row.run) for row in await connection.execute(query.order_by(runs.c.team, runs.c.run))]


def _within(team: str, day: str, first: int, last: int) -> Any:
    return and_(entries.c.team == team, entries.c.day == day, entries.c.entry_id.between(first, last))
