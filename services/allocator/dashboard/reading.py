"""What the page shows, as the database has it: budgets, runs, the last groups of each, the newest entries.

Owns the statements that no route of the API has; all name their teams, and all are bounded. One transaction reads it all:
behind the second wall where one team is shown (`Service.store.reading`). Changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import unquote

from sqlalchemy import BigInteger, CompoundSelect, Row, Select, and_, bindparam, cast, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.engine.records import GroupKey, GroupRecord, RunRecord
from rollout_budget.ledger.books import DAY, MONTH, TOTAL, Counts, day_of, entry_view
from rollout_budget.ledger.units import Amounts
from rollout_budget.wire import BudgetView, EntryView
from services.allocator.dashboard.spending import Spending, Spent
from services.allocator.database.ledger import SqlLedger
from services.allocator.database.lines import as_entry
from services.allocator.database.reports import Reports
from services.allocator.database.standing import as_run
from services.allocator.database.store import SqlTransaction
from services.allocator.database.tables import accounts, entries, outbox, runs, usage_sums

MAX_RUNS = 20
"""Runs on the page: running ones first, then the latest used. The rest is for the command line."""
MAX_ENTRIES = 12
"""Entries listed. Closes of groups are not among them: each follows a line that says more."""
GROUPS_PER_RUN = 24
"""Closed groups of a run that its shares and means are of: enough for a tenth either way, few enough to read at once."""
TAIL = 12 * GROUPS_PER_RUN
"""Newest entries of a run in which closed groups are looked for: a group of one wave writes four."""


class Place(NamedTuple):
    """A run of a team."""

    team: str
    run: str


@dataclass(frozen=True, slots=True)
class Account:
    """A team's budget and use; `held` by pattern of window, as `rollout_budget.ledger.books` names them."""

    budget: BudgetView
    held: dict[str, Amounts]
    stopped: int
    spent: Spent


@dataclass(frozen=True, slots=True)
class RunUse:
    """A run and what it has used."""

    record: RunRecord
    counts: Counts

    @property
    def place(self) -> Place:
        """Whose run it is, and which."""
        return Place(self.record.team, self.record.spec.run_id)


@dataclass(frozen=True, slots=True)
class ClosedOf:
    """A group that was closed by entry `entry_id`."""

    place: Place
    entry_id: int
    record: GroupRecord


@dataclass(frozen=True, slots=True)
class Moved:
    """A line of the ledger and when it was written, seconds since 1970."""

    team: str
    at_s: float
    entry: EntryView


@dataclass(frozen=True, slots=True)
class Picture:
    """All of it at the moment `now`, seconds since 1970 by the ledger's clock; `closed` and `moved` are newest first."""

    now: float
    accounts: list[Account]
    runs: list[RunUse]
    running: int
    finished: int
    closed: list[ClosedOf]
    moved: list[Moved]
    evidence_waiting: int


async def picture(connection: AsyncConnection, offset_s: float, teams: Sequence[str], spending: Spending) -> Picture:
    """Read it; `offset_s` is how far the ledger's clock is ahead of the database's (see `SqlStore`)."""
    reports = Reports(connection, offset_s)
    now = await reports.now()
    held, stopped = await _held(connection, teams, day_of(now))
    found = [
        Account(await reports.budget(team), held.get(team, {}), stopped.get(team, 0), await spending.read(connection, team, now))
        for team in teams
    ]  # fmt: skip
    shown = await _runs(connection, teams)
    running, finished = await _how_many(connection, teams)
    waiting = select(func.count()).select_from(outbox).where(outbox.c.team.in_(teams))
    return Picture(
        now,
        found,
        shown,
        running,
        finished,
        await _closed(connection, [use.place for use in shown]),
        await _moved(connection, teams),
        int(await connection.scalar(waiting) or 0),
    )


async def _held(
    connection: AsyncConnection, teams: Sequence[str], day: str
) -> tuple[dict[str, dict[str, Amounts]], dict[str, int]]:
    """Return what is held now in each window of each team, and how many of its accounts, runs' too, are stopped."""
    windows = {TOTAL: TOTAL, DAY + day: DAY, MONTH + day[:7]: MONTH}
    own = accounts.c.team.in_(teams)
    query = select(accounts).where(own, accounts.c.run == "", accounts.c.span.in_(windows))
    held: dict[str, dict[str, Amounts]] = {}
    for row in await connection.execute(query):
        amounts = Amounts(row.reserved, row.tokens_reserved, row.milliseconds_reserved)
        held.setdefault(row.team, {})[windows[row.span]] = amounts
    wrong = select(accounts.c.team, func.count()).where(own, accounts.c.suspended).group_by(accounts.c.team)
    return held, {row[0]: row[1] for row in await connection.execute(wrong)}


async def _runs(connection: AsyncConnection, teams: Sequence[str]) -> list[RunUse]:
    sums = [cast(func.sum(usage_sums.c[name]), BigInteger).label(name) for name in Counts._fields]
    place = (usage_sums.c.team, usage_sums.c.run)
    last = func.max(usage_sums.c.day).label("last")
    used = select(*place, last, *sums).where(usage_sums.c.team.in_(teams)).group_by(*place).subquery()
    query = (
        select(runs, *(func.coalesce(used.c[name], 0).label(name) for name in Counts._fields))
        .outerjoin(used, and_(used.c.team == runs.c.team, used.c.run == runs.c.run))
        .where(runs.c.team.in_(teams))
        .order_by(runs.c.finished, func.coalesce(used.c.last, "").desc(), runs.c.team, runs.c.run.desc())
        .limit(MAX_RUNS)
    )
    return [_used(row) for row in await connection.execute(query)]


def _used(row: Row[Any]) -> RunUse:
    return RunUse(as_run(row), Counts(*(int(getattr(row, name)) for name in Counts._fields)))


async def _how_many(connection: AsyncConnection, teams: Sequence[str]) -> tuple[int, int]:
    """Return how many runs there are: running, finished."""
    query = select(runs.c.finished, func.count()).where(runs.c.team.in_(teams)).group_by(runs.c.finished)
    counted = {bool(row[0]): int(row[1]) for row in await connection.execute(query)}
    return counted.get(False, 0), counted.get(True, 0)


async def _closed(connection: AsyncConnection, places: Sequence[Place]) -> list[ClosedOf]:
    """Return the last closed groups of each run."""
    if not places:
        return []
    named: dict[Place, dict[GroupKey, int]] = {}
    named_in = {f"team_{number}": place.team for number, place in enumerate(places)}
    named_in |= {f"run_{number}": place.run for number, place in enumerate(places)}
    for row in await connection.execute(_closes(len(places)), named_in):
        key = _group(row.reservation)
        if key is not None:
            named.setdefault(Place(row.team, row.run), {})[key] = row.entry_id
    store = SqlTransaction(connection, SqlLedger(connection))
    found = [
        ClosedOf(place, keys[key], record)
        for place, keys in named.items()
        for key, record in (await store.groups(place.team, place.run, list(keys))).items()
    ]
    return sorted(found, key=lambda one: -one.entry_id)


@cache
def _closes(count: int) -> CompoundSelect[Any]:
    """Return the statement for so many runs; made once, as putting it together takes longer than running it."""
    return union_all(*(_closes_of(number) for number in range(count)))


def _closes_of(number: int) -> Select[Any]:
    newest = (
        select(entries.c.entry_id, entries.c.team, entries.c.run, entries.c.kind, entries.c.reservation)
        .where(entries.c.team == bindparam(f"team_{number}"), entries.c.run == bindparam(f"run_{number}"))
        .order_by(entries.c.entry_id.desc())
        .limit(TAIL)
        .subquery()
    )
    closes = select(newest).where(newest.c.kind == "close").order_by(newest.c.entry_id.desc()).limit(GROUPS_PER_RUN)
    return select(closes.subquery())


def _group(reservation: str) -> GroupKey | None:
    """Return the group of a reservation `run/group/attempt/wave`; None of a group that was granted nothing."""
    parts = reservation.split("/")
    return GroupKey(unquote(parts[1]), int(parts[2])) if len(parts) == 4 else None


async def _moved(connection: AsyncConnection, teams: Sequence[str]) -> list[Moved]:
    """Return the newest lines of the record, over these teams."""
    if not teams:
        return []
    newest = (
        select(select(entries).where(entries.c.team == team).order_by(entries.c.entry_id.desc()).limit(3 * MAX_ENTRIES).subquery())
        for team in teams
    )  # fmt: skip
    found = [row for row in await connection.execute(union_all(*newest)) if row.kind != "close"]
    rows = sorted(found, key=lambda row: -row.entry_id)
    return [Moved(row.team, row.at_s, entry_view(row.entry_id, as_entry(row))) for row in rows[:MAX_ENTRIES]]
