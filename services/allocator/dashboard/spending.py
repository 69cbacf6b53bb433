"""What teams have spent in the last 24 hours, by minute, from the ledger's entries.

Entries are never changed, and those of one team become visible in the order of their numbers, so a process reads each of
them once: the first look at a team reads its last day, bounded, every later one what is new. Owns that statement and
what is remembered of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.ledger.units import NO_AMOUNTS, Amounts
from services.allocator.database.lines import ADDS
from services.allocator.database.tables import entries

MINUTE_S = 60
DAY_MINUTES = 24 * 60
MAX_ENTRIES = 100_000
"""Newest entries of a team that the first look reads at most, 0.2 s of SQLite: a day of a team that closes one group in
three seconds. What lies before them is missing from that day's chart."""
MAX_TEAMS = 256
"""Teams remembered: 1,440 minutes of each, 60 MB if all were busy all day."""
SPENT = (ADDS["committed"] + ADDS["overage"], ADDS["tokens"], ADDS["milliseconds"])
"""What an entry says was used of each unit, in the order of `Amounts`."""


@dataclass(frozen=True, slots=True)
class Spent:
    """A team's use by minute since 1970 (minutes without any are missing); `last` is the number of its last entry read."""

    last: int
    minutes: Mapping[int, Amounts]
    cut: bool = False

    def between(self, first: int, end: int) -> Amounts:
        """Return the sum from minute `first` up to, and without, minute `end`."""
        return total(self.minutes[minute] for minute in range(first, end) if minute in self.minutes)


class Spending:
    """Remembers what was read; forgets the team that nobody has looked at for longest."""

    def __init__(self) -> None:
        self._teams: OrderedDict[str, Spent] = OrderedDict()

    async def read(self, connection: AsyncConnection, team: str, now: float) -> Spent:
        """Return what a team has spent in the 24 hours before `now`, seconds since 1970 by the ledger's clock."""
        before = self._teams.get(team)
        known = before or await _first(connection, team)
        found = await _since(connection, team, known, now)
        now_known = self._teams.get(team)
        if now_known is None or now_known is before or now_known.last < found.last:  # else another request was quicker
            self._teams[team] = found
        self._teams.move_to_end(team)
        if len(self._teams) > MAX_TEAMS:
            self._teams.popitem(last=False)
        return found


def total(amounts: Iterable[Amounts]) -> Amounts:
    """Return the sum of amounts, unit by unit."""
    rows = list(amounts)
    return Amounts(*map(sum, zip(*rows, strict=True))) if rows else NO_AMOUNTS


async def _first(connection: AsyncConnection, team: str) -> Spent:
    """Return where the first look at a team starts."""
    floor = await connection.scalar(_newest(team).offset(MAX_ENTRIES).limit(1))
    return Spent(floor or 0, {}, cut=floor is not None)


def _newest(team: str) -> Select[Any]:
    """Return the numbers of a team's entries, newest first."""
    return select(entries.c.entry_id).where(entries.c.team == team).order_by(entries.c.entry_id.desc())


async def _since(connection: AsyncConnection, team: str, known: Spent, now: float) -> Spent:
    """Return what is known with what came after it, without what is older than a day."""
    newest = int(await connection.scalar(_newest(team).limit(1)) or 0)
    oldest = int(now) // MINUTE_S - DAY_MINUTES + 1
    minute = _minute(connection.dialect.name).label("minute")
    sums = [cast(func.sum(amount), BigInteger) for amount in SPENT]
    query = (
        select(minute, *sums)
        .where(
            entries.c.team == team, entries.c.entry_id > known.last, entries.c.at_s >= oldest * MINUTE_S
        )
        .group_by(minute)
    )  # fmt: skip
    minutes = {at: used for at, used in known.minutes.items() if at >= oldest}
    for row in await connection.execute(query) if newest > known.last else ():
        used = Amounts(*map(int, row[1:]))
        if any(used):
            minutes[row.minute] = total([minutes.get(row.minute, NO_AMOUNTS), used])
    return replace(known, last=max(newest, known.last), minutes=minutes)


def _minute(dialect: str) -> ColumnElement[int]:
    """Return the minute of an entry, rounded down: a cast does that on SQLite, and rounds to the nearest on PostgreSQL."""
    minutes = entries.c.at_s / MINUTE_S
    return cast(func.floor(minutes) if dialect == "postgresql" else minutes, BigInteger)
