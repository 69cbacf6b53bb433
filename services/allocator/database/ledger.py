"""The ledger on SQL: the port of `rollout_budget.ledger.base` on SQLite and PostgreSQL.

Owns reservations and entries; `accounts` owns the counters and the statement that grants, `reports` what is read back.
A batch of any size costs a fixed number of statements: one per scope for its sum, one for the reservations, one for the
entries. Settlement is `core`'s, on the rows named by the request, under the team's lock. What was done is kept in
`record`, for whoever wants to count it once the transaction has committed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Row, and_, bindparam, case, select, update
from sqlalchemy import insert as plain_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.errors import InvalidInput
from rollout_budget.ledger import core
from rollout_budget.ledger.asks import answered, common_step, require_lease, require_same, shared
from rollout_budget.ledger.base import Account, Ask, Discrepancy, Reservation, Settled, Settlement, Share
from rollout_budget.ledger.books import Books, Entry, Hold, day_of, project
from rollout_budget.ledger.maps import Map
from rollout_budget.wire import BudgetView, Dimension, RunLimits, TeamLimits, UsageRow
from services.allocator.database.accounts import Accounts, scopes
from services.allocator.database.audit import audit
from services.allocator.database.clock import now_s
from services.allocator.database.reports import Reports, as_reservation, digest
from services.allocator.database.tables import entries, reservations
from services.kit.session import chunks

RESOLVE = (
    update(reservations)
    .where(
        reservations.c.team == bindparam("in_team"),
        reservations.c.id_digest == bindparam("in_digest"),
        reservations.c.state == "reserved",
    )
    .values(state=bindparam("to_state"), used=bindparam("to_used"))
)
"""An id resolves once: the state is in the predicate (G6, G8)."""


class SqlLedger:
    """The ledger inside one database transaction; see `Ledger` for what each method promises.

    Args:
        connection: the transaction.
        clock_offset_s: added to the database's clock, for tests alone.
    """

    def __init__(self, connection: AsyncConnection, clock_offset_s: float = 0.0) -> None:
        self.record: list[Entry] = []
        self.timings: list[tuple[str, float]] = []
        self._connection = connection
        self._accounts = Accounts(connection)
        self._offset_s = clock_offset_s
        self._reports = Reports(connection, clock_offset_s)

    async def open_account(self, account: Account, limits: RunLimits) -> None:
        """Create a run's account under its team, or set its limits anew."""
        await self._accounts.open_team(account.team)
        await self._accounts.open_run(account, limits)

    async def set_team_limits(self, team: str, limits: TeamLimits) -> None:
        """Set a team's limits; lower than what is used already is legal and stops new grants only."""
        await self._accounts.open_team(team, limits)

    async def reserve(self, account: Account, asks: Sequence[Ask], lease_s: float, share: Share) -> list[Reservation]:
        """Hold all asks, or what `share` makes of what is left."""
        require_lease(lease_s)
        common_step(asks)
        with self._timed("reserve"):
            moment = await self._gate(account.team)
            answers = await self._answered(account, asks, moment)
            fresh = [index for index, ask in enumerate(asks) if ask.id not in answers]
            if fresh:
                grants = await self._grant(account, asks, fresh, moment, share)
                held = await self._hold(account, [asks[index] for index in fresh], grants, moment, lease_s)
                answers |= {one.id: one for one in held}
            return [answers[ask.id] for ask in asks]

    async def settle(self, account: Account, settlements: Sequence[Settlement]) -> list[Settled]:
        """Commit, release and book overage; each reservation resolves once."""
        with self._timed("settle"):
            moment = await self._gate(account.team)
            rows = await self._rows(account.team, [one for each in settlements for one in each.reservations])
            before = {(account.team, key): Hold(as_reservation(row, moment), row.day) for key, row in rows.items()}
            step = core.settle(Books(holds=Map(before)), account, settlements, now=moment)
            resolved = [
                {
                    "in_team": team,
                    "in_digest": digest(key),
                    "to_state": hold.reservation.state,
                    "to_used": hold.reservation.used,
                }
                for (team, key), hold in step.books.holds.items()
                if hold is not before[team, key]
            ]
            if resolved:
                await self._connection.execute(RESOLVE, resolved)
            await self._book(step.entries, moment)
            return step.answer

    async def renew(self, account: Account, lease_s: float, ids: Sequence[str] | None = None) -> int:
        """Extend the leases of these reservations that are still held; never shorten one."""
        require_lease(lease_s)
        ends = await self._gate(account.team) + lease_s
        of_run = and_(reservations.c.team == account.team, reservations.c.run == account.run)
        later = case((reservations.c.expires_s > ends, reservations.c.expires_s), else_=ends)
        renewal = update(reservations).where(of_run, reservations.c.state == "reserved").values(expires_s=later)
        if ids is None:
            return (await self._connection.execute(renewal)).rowcount
        chosen = [renewal.where(reservations.c.id_digest.in_([digest(one) for one in some])) for some in chunks(ids)]
        return sum([(await self._connection.execute(statement)).rowcount for statement in chosen])

    async def expire(self, account: Account | None = None) -> int:
        """Give back what is due, in one account or in all; return how many rollouts."""
        if account is not None:
            return await self._expire(account.team, await self._gate(account.team), account.run)
        due = and_(reservations.c.state == "reserved", reservations.c.expires_s <= now_s() + self._offset_s)
        teams = select(reservations.c.team).where(due).distinct().order_by(reservations.c.team)
        found = (await self._connection.execute(teams)).scalars().all()
        return sum([await self._expire(team, await self._gate(team)) for team in found])

    async def available(self, account: Account, step: int | None = None) -> int | None:
        """Rollouts left under every limit that applies; None without limits."""
        return await self._reports.available(account, step)

    async def reservation(self, team: str, reservation_id: str) -> Reservation:
        """Return one reservation."""
        return await self._reports.reservation(team, reservation_id)

    async def budget(self, team: str) -> BudgetView:
        """Return a team's limits, counters and what is left."""
        return await self._reports.budget(team)

    async def usage(self, team: str | None, by: Sequence[Dimension], run: str | None = None) -> list[UsageRow]:
        """Return counts from the entries, grouped by these dimensions; of all teams if `team` is None."""
        return await self._reports.usage(team, by, run)

    async def audit(self) -> list[Discrepancy]:
        """Recompute every counter from the entries, suspend what differs, and return it."""
        return await audit(self._connection)

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.timings.append((operation, time.perf_counter() - began))

    async def _gate(self, team: str) -> float:
        return await self._accounts.gate(team) + self._offset_s

    async def _answered(self, account: Account, asks: Sequence[Ask], moment: float) -> dict[str, Reservation]:
        rows = await self._rows(account.team, [ask.id for ask in asks])
        found = {key: as_reservation(row, moment) for key, row in rows.items()}
        for ask in asks:
            if ask.id in found:
                require_same(found[ask.id], account, ask)
        return found

    async def _grant(
        self, account: Account, asks: Sequence[Ask], fresh: Sequence[int], moment: float, share: Share
    ) -> list[int]:
        """Take the whole; failing that, expire what is due and take it again; failing that, take what `share` says."""
        charged = scopes(account, asks[0].step, day_of(moment))
        wanted = [asks[index].rollouts for index in fresh]
        if await self._accounts.take(charged, sum(wanted)):
            return wanted
        await self._accounts.open_spans(charged)
        await self._expire(account.team, moment)
        if await self._accounts.take(charged, sum(wanted)):
            return wanted
        left = max(0, min(await self._accounts.left(charged), default=0))
        given = shared(asks, fresh, share, left)
        grants = [given[index] for index in fresh]
        if sum(grants) and not await self._accounts.take(charged, sum(grants)):
            raise InvalidInput(f"a share gave out more than the {left} rollouts that are left")
        return grants

    async def _hold(
        self, account: Account, asks: Sequence[Ask], grants: Sequence[int], moment: float, lease_s: float
    ) -> list[Reservation]:
        """Store reservations and entries of what `_grant` took; the counters have moved already."""
        day = day_of(moment)
        held, lines = answered(account, dict(zip(asks, grants, strict=True)), day)
        ends = [moment + lease_s if one.rollouts else None for one in held]
        rows = [_reservation_row(one, day, end) for one, end in zip(held, ends, strict=True)]
        await self._connection.execute(plain_insert(reservations), rows)
        await self._append(lines, moment)
        return [replace(one, expires_in_s=lease_s) if one.rollouts else one for one in held]

    async def _expire(self, team: str, moment: float, run: str | None = None) -> int:
        due = and_(reservations.c.team == team, reservations.c.state == "reserved", reservations.c.expires_s <= moment)
        expiry = update(reservations).where(due).values(state="expired")
        if run is not None:
            expiry = expiry.where(reservations.c.run == run)
        rows = (await self._connection.execute(expiry.returning(*reservations.c))).all()
        await self._book(
            [
                Entry(Account(team, row.run), "expire", row.reservation_id, row.rollouts, row.day, row.step)
                for row in rows
            ],
            moment,
        )
        return sum(row.rollouts for row in rows)

    async def _rows(self, team: str, ids: Sequence[str]) -> dict[str, Row[Any]]:
        found: dict[str, Row[Any]] = {}
        for some in chunks(ids):
            named = reservations.c.id_digest.in_([digest(one) for one in some])
            query = select(reservations).where(reservations.c.team == team, named)
            found |= {row.reservation_id: row for row in await self._connection.execute(query)}
        return found

    async def _book(self, lines: Sequence[Entry], moment: float) -> None:
        """Append entries and move the counters by what they say."""
        changes = project(Map(), lines)
        await self._accounts.open_spans(scope for scope, change in changes.items() if change.overage)
        await self._accounts.move(changes)
        await self._append(lines, moment)

    async def _append(self, lines: Sequence[Entry], moment: float) -> None:
        if lines:
            await self._connection.execute(plain_insert(entries), [_entry_row(line, moment) for line in lines])
        self.record += lines


def _reservation_row(one: Reservation, day: str, expires_s: float | None) -> dict[str, Any]:
    return {
        "team": one.account.team,
        "id_digest": digest(one.id),
        "reservation_id": one.id,
        "run": one.account.run,
        "asked": one.asked,
        "rollouts": one.rollouts,
        "step": one.step,
        "day": day,
        "state": one.state,
        "used": one.used,
        "expires_s": expires_s,
    }


def _entry_row(line: Entry, moment: float) -> dict[str, Any]:
    row = asdict(line)
    account = row.pop("account")
    return {**account, **row, "at_s": moment}
