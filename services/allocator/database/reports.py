"""What is read back from the ledger: availability, budgets, usage, single reservations. Changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Double, Row, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.errors import NotFound
from rollout_budget.ledger.base import Account, EntryKind, Reservation
from rollout_budget.ledger.books import TOTAL, Scope, day_of
from rollout_budget.wire import MAX_ROLLOUTS, BudgetView, Dimension, RolloutCounts, TeamLimits, UsageRow
from services.allocator.database.accounts import DAY, MONTH, Accounts, scopes, team_scopes
from services.allocator.database.clock import now_s
from services.allocator.database.tables import accounts, entries, reservations

_DIMENSIONS = {"team": entries.c.team, "run": entries.c.run, "day": entries.c.day}


class Reports:
    """Reading statements inside one transaction."""

    def __init__(self, connection: AsyncConnection, clock_offset_s: float) -> None:
        self._connection = connection
        self._offset_s = clock_offset_s

    async def now(self) -> float:
        """Return the database's clock, seconds since 1970."""
        return float(await self._connection.scalar(select(now_s())) or 0.0) + self._offset_s

    async def available(self, account: Account, step: int | None) -> int | None:
        """Return what is left under every limit that applies to this account now."""
        return await self._least(scopes(account, step, day_of(await self.now())))

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
        query = select(accounts.c.span, accounts.c.limit_rollouts).where(
            accounts.c.team == team, accounts.c.run == "", accounts.c.span.in_((TOTAL, DAY, MONTH))
        )
        limits = {row.span: row.limit_rollouts for row in await self._connection.execute(query)}
        rows = await self.usage(team, ["team"])
        return BudgetView(
            team=team,
            limits=TeamLimits(
                rollouts=limits.get(TOTAL), rollouts_per_day=limits.get(DAY), rollouts_per_month=limits.get(MONTH)
            ),
            usage=rows[0].counts if rows else RolloutCounts(),
            available=await self._least(team_scopes(team, day_of(await self.now()))) if limits else None,
        )

    async def usage(self, team: str | None, by: Sequence[Dimension], run: str | None = None) -> list[UsageRow]:
        """Return counts from the entries, grouped and ordered by these dimensions."""
        columns = [_DIMENSIONS[dimension] for dimension in by]
        query = select(*columns, *(total.label(name) for name, total in _totals().items()))
        if team is not None:
            query = query.where(entries.c.team == team)
        if run is not None:
            query = query.where(entries.c.run == run)
        rows = (await self._connection.execute(query.group_by(*columns))).all()
        ordered = sorted(rows, key=lambda row: tuple(row[: len(columns)]))
        return [_usage_row(row, by) for row in ordered if row.booked]

    async def _least(self, wanted: Sequence[Scope]) -> int | None:
        return min(await Accounts(self._connection).left(wanted), default=None)


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
    )


def _of(kind: EntryKind) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((entries.c.kind == kind, entries.c.rollouts), else_=0)), 0)


def _totals() -> dict[str, ColumnElement[Any]]:
    closed = case((entries.c.reference > 0, 1), else_=0)
    return {
        "granted": _of("reserve"),
        "committed": _of("commit"),
        "released": _of("release"),
        "expired": _of("expire"),
        "refused": _of("refuse"),
        "overage": _of("overage"),
        "groups_closed": func.coalesce(func.sum(closed), 0),
        "reference": func.coalesce(func.sum(entries.c.reference), 0),
        "tokens": func.coalesce(func.sum(cast(entries.c.tokens, Double)), 0.0),
        "seconds": func.coalesce(func.sum(entries.c.seconds), 0.0),
        "booked": func.count(),
    }


def _usage_row(row: Row[Any], by: Sequence[Dimension]) -> UsageRow:
    names = ("granted", "committed", "released", "expired", "refused", "overage", "groups_closed")
    whole = {name: int(getattr(row, name)) for name in names}
    counts = RolloutCounts(
        **whole,
        reserved=whole["granted"] - whole["committed"] - whole["released"] - whole["expired"],
        saved=int(row.reference) - whole["committed"] - whole["overage"],
        tokens=min(int(row.tokens), MAX_ROLLOUTS),
        seconds=row.seconds,
    )
    return UsageRow(counts=counts, **{dimension: getattr(row, dimension) for dimension in by})
