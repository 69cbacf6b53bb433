"""The budget's rules as a pure state machine: books, a command and the time in; books, an answer and entries out.

Owns every decision about rollouts: what is granted, what is given back, what is due, what is refused for good. Owns no
clock (time is an argument, in seconds since the epoch, and never runs backwards), no storage and no I/O. Nothing is
changed in place: whoever keeps the old books can go back to them. `memory` puts a clock around it; the SQL ledger
states the same rules as statements and is tested against this one.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from rollout_budget.errors import InvalidInput, NotFound
from rollout_budget.ledger.asks import answered, common_step, require_lease, require_same, shared
from rollout_budget.ledger.base import (
    Account,
    Ask,
    Discrepancy,
    Reservation,
    Settled,
    Settlement,
    Share,
)
from rollout_budget.ledger.books import (
    Books,
    Entry,
    Hold,
    Scope,
    day_of,
    discrepancies,
    pattern_of,
    scopes,
    team_scopes,
)
from rollout_budget.ledger.limits import (
    Bound,
    Terms,
    beyond_shadow,
    budget_view,
    enforced,
    run_terms,
    team_terms,
    unrefused,
    warnings,
)
from rollout_budget.ledger.units import Amounts, Caps, beside, milliseconds
from rollout_budget.wire import BudgetView, LimitUse, ReservationState, RunLimits, TeamLimits

Answer_co = TypeVar("Answer_co", covariant=True)
NO_LIMITS = TeamLimits()


@dataclass(frozen=True, slots=True)
class Step(Generic[Answer_co]):
    """What a command leaves behind: the next books, its answer, and the entries to append to the record."""

    books: Books
    answer: Answer_co
    entries: tuple[Entry, ...] = ()
    warnings: tuple[LimitUse, ...] = ()


def open_account(books: Books, account: Account, limits: RunLimits) -> Books:
    """Create a run's account, or set its limits anew; its team gets no limits if it is new."""
    if not (account.team and account.run):
        raise InvalidInput("an account needs a team and a run")
    teams = books.teams if account.team in books.teams else books.teams.updated({account.team: NO_LIMITS})
    return replace(books, teams=teams, runs=books.runs.updated({account: limits}))


def set_team_limits(books: Books, team: str, limits: TeamLimits) -> Books:
    """Set a team's limits, even below what is used already."""
    return replace(books, teams=books.teams.updated({team: limits}))


def available(books: Books, account: Account, step: int | None, *, now: float) -> int | None:
    """Return what is left under every limit that refuses, None without; at most 0 where grants are stopped.

    Raises:
        NotFound: the account was never opened.
    """
    return enforced(bounds(books, account, step, now=now), _terms(books, account).each)


def reserve(
    books: Books, account: Account, asks: Sequence[Ask], lease_s: float, share: Share, *, now: float
) -> Step[list[Reservation]]:
    """Hold all asks, or what `share` makes of what is left (see `Ledger.reserve`)."""
    require_lease(lease_s)
    step, each = common_step(asks), _terms(books, account).each
    binding = bounds(books, account, step, now=now)
    fresh = [index for index, ask in enumerate(asks) if not _answered(books, account, ask)]
    wanted = sum(asks[index].rollouts for index in fresh)
    freed: tuple[Entry, ...] = ()
    if fresh and _short(unrefused(binding, each), wanted):
        expired = _expire(books, [run for run in books.leases if run.team == account.team], now=now)
        books, freed = expired.books, expired.entries
        binding = bounds(books, account, step, now=now)
    left = enforced(binding, each)
    grants = [ask.rollouts for ask in asks]
    if fresh and left is not None and left < wanted:
        grants = shared(asks, fresh, share, max(left, 0))
    granted = {asks[index]: grants[index] for index in fresh}
    beyond = beyond_shadow(binding, each, sum(granted.values()))
    held = _hold(books, account, granted, lease_s, each=each, beyond=beyond, now=now)
    answer = [reservation(held.books, account.team, ask.id, now=now) for ask in asks]
    near = warnings(bounds(held.books, account, step, now=now)) if fresh else []
    return Step(held.books, answer, freed + held.entries, tuple(near))


def settle(books: Books, account: Account, settlements: Sequence[Settlement], *, now: float) -> Step[list[Settled]]:
    """Commit what was used, release the rest of what is still held, book what goes beyond it as overage.

    Raises:
        NotFound: a reservation is not one of this account's; nothing was settled.
        InvalidInput: `used` is negative; nothing was settled.
    """
    holds: dict[str, Hold] = {}
    entries: list[Entry] = []
    answer = []
    for settlement in settlements:
        if settlement.used < 0:
            raise InvalidInput(f"used {settlement.used} rollouts")
        of_group = {key: holds.get(key) or _find(books, account, key) for key in settlement.reservations}
        settled, lines, resolved = _settle_one(account, settlement, of_group, day_of(now))
        holds |= resolved
        entries += lines
        answer.append(settled)
    return Step(books.after(entries, holds, dict.fromkeys(holds), account), answer, tuple(entries))


def renew(books: Books, account: Account, lease_s: float, ids: Sequence[str] | None, *, now: float) -> Step[int]:
    """Extend the leases of what is still held, due or not; a shorter lease than what remains changes nothing."""
    require_lease(lease_s)
    leases = books.leases.get(account, {})
    kept = leases if ids is None else {key: leases[key] for key in ids if key in leases}
    renewed = {key: max(end, now + lease_s) for key, end in kept.items()}
    return Step(books.after((), {}, renewed, account), len(renewed))


def expire(books: Books, account: Account | None, *, now: float) -> Step[int]:
    """Give back every hold whose lease has ended, in one run or in all of them."""
    return _expire(books, list(books.leases) if account is None else [account], now=now)


def audit(books: Books, entries: Sequence[Entry]) -> Step[list[Discrepancy]]:
    """Recompute the counters from all entries; accounts that differ get no grants until an audit finds them right."""
    found = discrepancies(books, entries)
    return Step(replace(books, stopped=frozenset(item.account for item in found)), found)


def reservation(books: Books, team: str, reservation_id: str, *, now: float) -> Reservation:
    """Return a reservation as it stands.

    Raises:
        NotFound: this team has none of that id.
    """
    hold = books.holds.get((team, reservation_id))
    if hold is None:
        raise NotFound(f"no reservation {reservation_id!r}")
    end = books.leases.get(hold.reservation.account, {}).get(reservation_id)
    return hold.reservation if end is None else replace(hold.reservation, expires_in_s=max(end - now, 0.0))


def budget(books: Books, team: str, *, now: float) -> BudgetView:
    """Return a team's limits, counters and what is left under its own limits; an unknown team has neither."""
    account = Account(team, "")
    binding = _bounds(books, team_scopes(team, day_of(now)), team_terms(books.teams.get(team, NO_LIMITS)))
    return budget_view(team, books.teams.get(team, NO_LIMITS), books.count(account), binding)


def bounds(books: Books, account: Account, step: int | None, *, now: float) -> list[Bound]:
    """Return the bounds of a grant, the team's first.

    Raises:
        NotFound: the account was never opened.
    """
    own, charged = _terms(books, account), scopes(account, step, day_of(now))
    team = team_terms(books.teams[account.team])
    return [*_bounds(books, charged[:3], team), *_bounds(books, charged[3:], own)]


def _bounds(books: Books, charged: Sequence[Scope], terms: Terms) -> list[Bound]:
    return [
        Bound(
            scope,
            terms.caps.get(pattern_of(scope.window), Caps()),
            books.count(scope.account, scope.window).charged,
            terms.shadow,
            terms.warn_at,
            scope.account in books.stopped,
        )
        for scope in charged
    ]


def _terms(books: Books, account: Account) -> Terms:
    if account not in books.runs:
        raise NotFound(f"run {account.run!r} has no account")
    return run_terms(books.runs[account])


def _short(left: int | None, wanted: int) -> bool:
    return left is not None and left < wanted


def _answered(books: Books, account: Account, ask: Ask) -> bool:
    """Whether this very ask was answered before (G3); another ask under its id is a conflict (G4)."""
    hold = books.holds.get((account.team, ask.id))
    if hold is None:
        return False
    require_same(hold.reservation, account, ask)
    return True


def _hold(
    books: Books, account: Account, grants: Mapping[Ask, int], lease_s: float, *, each: Amounts, beyond: int, now: float
) -> Step[None]:
    day = day_of(now)
    held, entries = answered(account, grants, day, each, beyond)
    holds = {one.id: Hold(one, day) for one in held}
    leases = {ask.id: now + lease_s for ask, grant in grants.items() if grant}
    return Step(books.after(entries, holds, leases, account), None, tuple(entries))


def _find(books: Books, account: Account, key: str) -> Hold:
    hold = books.holds.get((account.team, key))
    if hold is None or hold.reservation.account != account:
        raise NotFound(f"no reservation {key!r} in run {account.run!r}")
    return hold


def _settle_one(
    account: Account, settlement: Settlement, holds: Mapping[str, Hold], today: str
) -> tuple[Settled, list[Entry], dict[str, Hold]]:
    left = Amounts(settlement.used, settlement.tokens, milliseconds(settlement.seconds))
    released = 0
    entries: list[Entry] = []
    resolved: dict[str, Hold] = {}
    for key, hold in holds.items():
        held = hold.reservation
        if held.state != "reserved":
            continue
        used = min(left.rollouts, held.rollouts)
        each = Amounts(1, held.tokens_each, held.milliseconds_each)
        taken = Amounts(*map(min, left, each.times(used)))
        left = Amounts(*map(operator.sub, left, taken))
        released += held.rollouts - used
        state: ReservationState = "committed" if used else "released"
        resolved[key] = Hold(replace(held, state=state, used=used, expires_in_s=None), hold.day)
        place, policy, back = (hold.day, held.step), held.policy, beside(each, used)
        if used:
            tokens, time = taken.tokens, taken.milliseconds
            committed = Entry(
                account, "commit", key, used, *place, tokens=tokens, milliseconds=time, held=back, policy=policy
            )
            entries.append(committed)
        rest = held.rollouts - used
        if rest:
            entries.append(Entry(account, "release", key, rest, *place, held=beside(each, rest), policy=policy))
    entries += _beyond(account, settlement, holds, left, today)
    return Settled(settlement.used - left.rollouts, released, left.rollouts), entries, resolved


def _beyond(
    account: Account, settlement: Settlement, holds: Mapping[str, Hold], left: Amounts, today: str
) -> Iterator[Entry]:
    """Write down what was used beyond what was held: as overage of the units the group held, else with its close."""
    last = holds[settlement.reservations[-1]].reservation if settlement.reservations else None
    tokens = left.tokens if any(hold.reservation.tokens_each for hold in holds.values()) else 0
    time = left.milliseconds if any(hold.reservation.milliseconds_each for hold in holds.values()) else 0
    key, step, policy = ("", None, "") if last is None else (last.id, last.step, last.policy)
    if left.rollouts or tokens or time:
        yield Entry(
            account, "overage", key, left.rollouts, today, step, tokens=tokens, milliseconds=time, policy=policy
        )
    tokens, time, reference = left.tokens - tokens, left.milliseconds - time, settlement.reference
    if reference or tokens or time:
        yield Entry(account, "close", key, 0, today, step, reference, tokens, time, policy=policy)


def _expire(books: Books, accounts: Sequence[Account], *, now: float) -> Step[int]:
    lines: list[Entry] = []
    for account in accounts:
        due = [key for key, end in books.leases.get(account, {}).items() if end <= now]
        holds = {key: books.holds[account.team, key] for key in due}
        entries = [expiry(hold.reservation, hold.day) for hold in holds.values()]
        gone = {
            key: replace(hold, reservation=replace(hold.reservation, state="expired")) for key, hold in holds.items()
        }
        books = books.after(entries, gone, dict.fromkeys(gone), account)
        lines += entries
    return Step(books, sum(entry.rollouts for entry in lines), tuple(lines))


def expiry(held: Reservation, day: str) -> Entry:
    """Return the entry that gives back a whole reservation of this day."""
    each = Amounts(1, held.tokens_each, held.milliseconds_each)
    back = beside(each, held.rollouts)
    return Entry(held.account, "expire", held.id, held.rollouts, day, held.step, policy=held.policy, held=back)
