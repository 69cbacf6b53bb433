"""What is read back from the ledger: availability, budgets, usage, single reservations. Changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Row, cast, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.errors import NotFound
from rollout_budget.ledger.base import EVERYTHING, Account, Reservation, Selection
from rollout_budget.ledger.books import (
    DAY,
    MONTH,
    NOTHING,
    TOTAL,
    Counts,
    day_of,
    entry_view,
    scopes,
    team_scopes,
)
from rollout_budget.ledger.limits import NAMES, budget_view, enforced
from rollout_budget.ledger.units import seconds
from rollout_budget.wire import BudgetView, Dimension, EntryKind, EntryView, TeamLimits, UsageRow
from services.allocator.database.accounts import LIMITS, Accounts
from services.allocator.database.clock import now_s
from services.allocator.database.lines import as_entry
from services.allocator.database.tables import accounts, entries, reservations, usage_sums


class Reports:
    """Reading statements inside one transaction."""

    def __init__(self, connection: AsyncConnection, clock_offset_s: float) -> None:
        self._connection = connection
        self._offset_s = clock_offset_s

    async def now(self) -> float:
        """Return the database's clock, seconds since 1970."""
        return float(await self._connection.scalar(select(now_s())) or 0.0) + self._offset_s

    async def available(self, account: Account, step: int | None) -> int | None:
        """Return what is left under every limit that refuses this account's grants now."""
        accounts_ = Accounts(self._connection)
        bounds = await accounts_.bounds(scopes(account, step, day_of(await self.now())))
        return enforced(bounds, await accounts_.each(account))

    async def reservation(self, team: str, reservation_id: str) -> Reservation:
        """Return one reservation of this team."""
        query = select(reservations).where(
            reservations.c.team == team, reservations.c.id_digest == digest(reservation_id)
        )
        row = (await self._connection.execute(query)).one_or_none()
        if row is None:
            raise NotFound(f"no reservation {reservation_id!r}")
        return as_reservation(row, await self.now())

    async def budget(self, team: str) -> BudgetView:
        """Return a team's limits, counters and what is left under its own limits; an unknown team has neither."""
        charged = team_scopes(team, day_of(await self.now()))
        query = select(accounts.c.span, *(accounts.c[name] for name in LIMITS)).where(
            accounts.c.team == team, accounts.c.run == "", accounts.c.span.in_((TOTAL, DAY, MONTH))
        )
        rows = (await self._connection.execute(query)).all()
        bounds = await Accounts(self._connection).bounds(charged) if rows else []
        counts = dict(await self._sums(team, (), EVERYTHING)).get((), NOTHING)
        return budget_view(team, _team_limits(rows), counts, bounds)

    async def usage(self, team: str | None, by: Sequence[Dimension], which: Selection) -> list[UsageRow]:
        """Return counts from the sums of usage, grouped and ordered by these dimensions."""
        rows = await self._sums(team, by, which)
        return [UsageRow(counts=counts.view(), **dict(zip(by, row, strict=True))) for row, counts in rows]

    async def entries(
        self, team: str, kind: EntryKind | None, run: str | None, *, after: int, limit: int
    ) -> list[EntryView]:
        """Return lines of the record in the order in which they were written."""
        query = select(entries).where(entries.c.team == team, entries.c.entry_id > after)
        if kind is not None:
            query = query.where(entries.c.kind == literal(kind, literal_execute=True))  # for the partial index
        if run is not None:
            query = query.where(entries.c.run == run)
        rows = await self._connection.execute(query.order_by(entries.c.entry_id).limit(limit))
        return [entry_view(row.entry_id, as_entry(row)) for row in rows]

    async def _sums(
        self, team: str | None, by: Sequence[Dimension], which: Selection
    ) -> list[tuple[tuple[str, ...], Counts]]:
        columns = [self._by_character(usage_sums.c[dimension]) for dimension in by]
        totals = [cast(func.sum(usage_sums.c[name]), BigInteger).label(name) for name in Counts._fields]
        query = select(func.count().label("rows"), *totals, *columns).group_by(*columns)
        for column, wanted in (("team", team), ("run", which.run), ("policy", which.policy)):
            if wanted is not None:
                query = query.where(usage_sums.c[column] == wanted)
        if which.since is not None:
            query = query.where(usage_sums.c.day >= which.since)
        if which.until is not None:
            query = query.where(usage_sums.c.day <= which.until)
        if which.after:
            query = query.where(tuple_(*columns) > tuple_(*which.after))
        rows = (await self._connection.execute(query.order_by(*columns).limit(which.limit))).all()
        width = len(totals)
        return [(tuple(map(str, row[width + 1 :])), Counts(*row[1 : width + 1])) for row in rows if row.rows]

    def _by_character(self, column: Column[str]) -> ColumnElement[str]:
        """Return a column in one order everywhere: PostgreSQL's own depends on how the database was made."""
        return column.collate("C") if self._connection.dialect.name == "postgresql" else column


def digest(reservation_id: str) -> str:
    """Return the digest under which a reservation is found."""
    return hashlib.sha256(reservation_id.encode()).hexdigest()


def as_reservation(row: Row[Any], now: float) -> Reservation:
    """Return a row of the reservations table as the ledger's word for it."""
    lease = max(0.0, row.expires_s - now) if row.state == "reserved" else None
    return Reservation(
        id=row.reservation_id,
        account=Account(row.team, row.run),
        asked=row.asked,
        rollouts=row.rollouts,
        step=row.step,
        state=row.state,
        used=row.used,
        expires_in_s=lease,
        policy=row.policy,
        tokens_each=row.tokens_each,
        milliseconds_each=row.milliseconds_each,
    )


def _team_limits(rows: Sequence[Row[Any]]) -> TeamLimits:
    found: dict[str, Any] = {}
    for row in rows:
        rollouts, tokens, time = NAMES[row.span]
        found |= {rollouts: row.limit_rollouts, tokens: row.limit_tokens}
        found |= {time: None if row.limit_milliseconds is None else seconds(row.limit_milliseconds)}
        found |= {"warn_at": row.warn_at, "mode": "shadow" if row.shadow else "enforce"}
    return TeamLimits(**found)
