"""The ledger on SQL: the port of `rollout_budget.ledger.base` on SQLite and PostgreSQL.

Owns reservations and entries; `accounts` owns the counters and the statement that grants, `reports` what is read back.
A batch of any size costs a fixed number of statements: one for all its scopes, one for the reservations, one for the
entries; the sums of usage are moved once, at the end of the transaction (`flush`). Settlement is `core`'s, on the rows named by the request, under the team's lock. What was done is kept in
`record`, for whoever wants to count it once the transaction has committed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, Table, and_, bindparam, case, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.errors import InvalidInput
from rollout_budget.ledger import core
from rollout_budget.ledger.asks import answered, common_step, require_lease, require_same, shared
from rollout_budget.ledger.base import (
    EVERYTHING,
    Account,
    Ask,
    Discrepancy,
    Reservation,
    Selection,
    Settled,
    Settlement,
    Share,
)
from rollout_budget.ledger.books import Books, Counts, Entry, Hold, Scope, day_of, project, scopes, usage_sums
from rollout_budget.ledger.limits import Bound, beyond_shadow, enforced, warnings
from rollout_budget.ledger.maps import Map
from rollout_budget.wire import (
    BudgetView,
    Dimension,
    EntryKind,
    EntryView,
    LimitUse,
    RunLimits,
    TeamLimits,
    UsageRow,
)
from services.allocator.database.accounts import Accounts, Gate
from services.allocator.database.audit import audit
from services.allocator.database.clock import now_s
from services.allocator.database.lines import row_of
from services.allocator.database.reports import Reports, as_reservation, digest
from services.allocator.database.tables import entries, reservations
from services.allocator.database.tables import usage_sums as sums
from services.kit.rows import Listed, among, change, each_of, write

_DIGESTS = bindparam("in_digests", type_=Listed())
_OF_TEAM = reservations.c.team == bindparam("in_team")
NAMED = each_of(list(reservations.c), _OF_TEAM, reservations.c.id_digest, _DIGESTS)
_ENDS = bindparam("ends", type_=reservations.c.expires_s.type)
_RENEWED = (
    update(reservations)
    .where(_OF_TEAM, reservations.c.run == bindparam("in_run"))
    .values(expires_s=case((reservations.c.expires_s > _ENDS, reservations.c.expires_s), else_=_ENDS))
)
RENEW = _RENEWED.where(reservations.c.state == "reserved")
_STILL_HELD = reservations.c.state == select(literal("reserved")).scalar_subquery()
"""A state that PostgreSQL does not know beforehand, so that it takes the key, and not all held rows of the partial index."""
RENEW_NAMED = _RENEWED.where(among(reservations.c.id_digest, _DIGESTS), _STILL_HELD)


class SqlLedger:
    """The ledger inside one database transaction; see `Ledger` for what each method promises.

    Args:
        connection: the transaction.
        clock_offset_s: added to the database's clock, for tests alone.
    """

    def __init__(self, connection: AsyncConnection, clock_offset_s: float = 0.0) -> None:
        self.record: list[Entry] = []
        self.booked_at: list[float] = []
        """Every `at_s` of what is in `record`, in order: one, but for a transaction that asked for the lock twice."""
        self.timings: list[tuple[str, float]] = []
        self.waits: list[tuple[str, float]] = []
        self._connection = connection
        self._accounts = Accounts(connection)
        self._gates: dict[str, Gate] = {}
        self._offset_s = clock_offset_s
        self._unsummed: list[Entry] = []
        self._bounds: Sequence[Bound] = ()
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
            gate = await self._gate(account.team, account.run)
            answers = await self._answered(account, asks, gate.moment)
            fresh = [index for index, ask in enumerate(asks) if ask.id not in answers]
            self._bounds = ()
            if fresh:
                grants, beyond = await self._grant(account, asks, fresh, gate, share)
                granted = dict(zip([asks[index] for index in fresh], grants, strict=True))
                held, lines = answered(account, granted, day_of(gate.moment), gate.each, beyond)
                await self._hold(held, lines, gate.moment, lease_s)
                answers |= {one.id: replace(one, expires_in_s=lease_s) if one.rollouts else one for one in held}
            return [answers[ask.id] for ask in asks]

    async def settle(self, account: Account, settlements: Sequence[Settlement]) -> list[Settled]:
        """Commit, release and book overage; each reservation resolves once."""
        with self._timed("settle"):
            moment = (await self._gate(account.team)).moment
            rows = await self._rows(account.team, [one for each in settlements for one in each.reservations])
            before = {(account.team, key): Hold(as_reservation(row, moment), row.day) for key, row in rows.items()}
            step = core.settle(Books(holds=Map(before)), account, settlements, now=moment)
            resolved = [
                (hold.reservation.state, hold.reservation.used, team, digest(key))
                for (team, key), hold in step.books.holds.items()
                if hold is not before[team, key]
            ]  # an id resolves once: the state is in the predicate (G6, G8)
            keys, names = ("team", "id_digest"), ("state", "used")
            await change(self._connection, reservations, keys, names, resolved, only=("state", "reserved"))
            await self._book(step.entries, moment)
            return step.answer

    async def renew(self, account: Account, lease_s: float, ids: Sequence[str] | None = None) -> int:
        """Extend the leases of these reservations that are still held; never shorten one."""
        require_lease(lease_s)
        ends = (await self._gate(account.team)).moment + lease_s
        named = {"in_team": account.team, "in_run": account.run, "ends": ends}
        if ids is None:
            return (await self._connection.execute(RENEW, named)).rowcount
        named |= {"in_digests": [digest(one) for one in ids]}
        return (await self._connection.execute(RENEW_NAMED, named)).rowcount

    async def expire(self, account: Account | None = None) -> int:
        """Give back what is due, in one account or in all; return how many rollouts."""
        if account is not None:
            return await self._expire(account.team, (await self._gate(account.team)).moment, account.run)
        due = and_(reservations.c.state == "reserved", reservations.c.expires_s <= now_s() + self._offset_s)
        teams = select(reservations.c.team).where(due).distinct().order_by(reservations.c.team)
        found = (await self._connection.execute(teams)).scalars().all()
        return sum([await self._expire(team, (await self._gate(team)).moment) for team in found])

    async def available(self, account: Account, step: int | None = None) -> int | None:
        """Rollouts left under every limit that refuses; None without such limits."""
        return await self._reports.available(account, step)

    def warnings(self) -> Sequence[LimitUse]:
        """Return the limits from their `warn_at` on, as the last `reserve` found them."""
        return warnings(self._bounds)

    async def reservation(self, team: str, reservation_id: str) -> Reservation:
        """Return one reservation."""
        return await self._reports.reservation(team, reservation_id)

    async def budget(self, team: str) -> BudgetView:
        """Return a team's limits, counters and what is left."""
        await self.flush()
        return await self._reports.budget(team)

    async def usage(self, team: str | None, by: Sequence[Dimension], which: Selection = EVERYTHING) -> list[UsageRow]:
        """Return counts from the sums of usage, grouped by these dimensions; of all teams if `team` is None."""
        await self.flush()
        return await self._reports.usage(team, by, which)

    async def entries(
        self, team: str, kind: EntryKind | None = None, run: str | None = None, *, after: int = 0, limit: int = 100
    ) -> list[EntryView]:
        """Return lines of the record in the order in which they were written."""
        return await self._reports.entries(team, kind, run, after=after, limit=limit)

    async def audit(self) -> list[Discrepancy]:
        """Recompute every counter from the entries, suspend what differs, and return it."""
        await self.flush()
        return await audit(self._connection)

    async def flush(self) -> None:
        """Move the sums of usage by what this transaction has booked. Whoever commits the transaction calls it first."""
        changes, self._unsummed = usage_sums(Map(), self._unsummed), []
        if changes:
            order = sorted(changes, key=lambda key: (key.account.run, key.policy, key.day))
            rows = [(key.account.team, key.account.run, key.policy, key.day, *changes[key]) for key in order]
            names = ("team", "run", "policy", "day", *Counts._fields)
            await write(self._connection, sums, names, rows, changed=Counts._fields, adding=True)

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.timings.append((operation, time.perf_counter() - began))

    async def _gate(self, team: str, run: str = "") -> Gate:
        """Lock the team's row, once: the lock lasts as long as the transaction, and so does the moment it was had at."""
        passed = self._gates.get(team)
        if passed is None or run not in {"", passed.run}:
            began = time.perf_counter()
            gate = await self._accounts.gate(team, run)
            self.waits.append(("team", time.perf_counter() - began))
            passed = self._gates[team] = replace(gate, moment=gate.moment + self._offset_s)
        return passed

    async def _answered(self, account: Account, asks: Sequence[Ask], moment: float) -> dict[str, Reservation]:
        rows = await self._rows(account.team, [ask.id for ask in asks])
        found = {key: as_reservation(row, moment) for key, row in rows.items()}
        for ask in asks:
            if ask.id in found:
                require_same(found[ask.id], account, ask)
        return found

    async def _grant(
        self, account: Account, asks: Sequence[Ask], fresh: Sequence[int], gate: Gate, share: Share
    ) -> tuple[list[int], int]:
        """Take the whole; failing that, expire what is due and take what is left, by `share` if it is not the whole.

        Return the grants, and how many of their rollouts limits in shadow mode would have refused.
        """
        charged = scopes(account, asks[0].step, day_of(gate.moment))
        wanted = [asks[index].rollouts for index in fresh]
        if await self._take(charged, sum(wanted), gate):
            return wanted, 0
        await self._accounts.open_spans(charged)
        await self._expire(account.team, gate.moment)
        self._bounds = await self._accounts.bounds(charged)
        left = enforced(self._bounds, gate.each)
        grants = wanted
        if left is not None and left < sum(wanted):
            given = shared(asks, fresh, share, max(left, 0))
            grants = [given[index] for index in fresh]
        beyond = beyond_shadow(self._bounds, gate.each, sum(grants))
        if sum(grants) and not await self._take(charged, sum(grants), gate, lenient=True):
            raise InvalidInput(f"a share gave out more than the {left} rollouts that are left")
        return grants, beyond

    async def _take(self, charged: Sequence[Scope], n: int, gate: Gate, *, lenient: bool = False) -> bool:
        taken = await self._accounts.take(charged, n, gate.each, lenient=lenient)
        self._bounds = taken or self._bounds
        return taken is not None

    async def _hold(self, held: Sequence[Reservation], lines: Sequence[Entry], moment: float, lease_s: float) -> None:
        """Store reservations and entries of what `_grant` took; the counters have moved already."""
        day = day_of(moment)
        rows = [_reservation_row(one, day, moment + lease_s if one.rollouts else None) for one in held]
        await self._insert(reservations, rows)
        await self._append(lines, moment)

    async def _expire(self, team: str, moment: float, run: str | None = None) -> int:
        due = and_(reservations.c.team == team, reservations.c.state == "reserved", reservations.c.expires_s <= moment)
        gone = update(reservations).where(due).values(state="expired")
        if run is not None:
            gone = gone.where(reservations.c.run == run)
        rows = (await self._connection.execute(gone.returning(*reservations.c))).all()
        await self._book([core.expiry(as_reservation(row, moment), row.day) for row in rows], moment)
        return sum(row.rollouts for row in rows)

    async def _rows(self, team: str, ids: Sequence[str]) -> dict[str, Row[Any]]:
        named = {"in_team": team, "in_digests": [digest(one) for one in ids]}
        rows = await self._connection.execute(NAMED[self._connection.dialect.name], named)
        return {row.reservation_id: row for row in rows}

    async def _book(self, lines: Sequence[Entry], moment: float) -> None:
        """Append entries and move the counters by what they say."""
        changes = project(Map(), lines)
        booked_now = [line for line in lines if line.kind in {"overage", "close"}]
        if booked_now:  # on today's rows, where no grant of today need have been
            changed = project(Map(), booked_now)
            await self._accounts.open_spans(scope for scope, change in changed.items() if any(change.charged))
        await self._accounts.move(changes)
        await self._append(lines, moment)

    async def _append(self, lines: Sequence[Entry], moment: float) -> None:
        if lines:
            await self._insert(entries, [row_of(line, moment) for line in lines])
            if self.booked_at[-1:] != [moment]:
                self.booked_at.append(moment)
        self.record += lines
        self._unsummed += lines

    async def _insert(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows that all have the same columns."""
        await write(self._connection, table, tuple(rows[0]), [tuple(row.values()) for row in rows])


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
        "policy": one.policy,
        "tokens_each": one.tokens_each,
        "milliseconds_each": one.milliseconds_each,
    }
