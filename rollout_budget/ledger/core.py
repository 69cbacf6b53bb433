"""The budget's rules as a pure state machine: books, a command and the time in; books, an answer and entries out.

Owns every decision about rollouts: what is granted, what is given back, what is due, what is refused for good. Owns no
clock (time is an argument, in seconds since the epoch, and never runs backwards), no storage and no I/O. Nothing is
changed in place: whoever keeps the old books can go back to them. `memory` puts a clock around it; the SQL ledger
states the same rules as statements and is tested against this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from rollout_budget.errors import InvalidInput, NotFound
from rollout_budget.ledger.asks import answered, common_step, require_lease, require_same, shared
from rollout_budget.ledger.base import (
    Account,
    Ask,
    Discrepancy,
    EntryKind,
    Reservation,
    Settled,
    Settlement,
    Share,
)
from rollout_budget.ledger.books import TOTAL, Books, Entry, Hold, day_of, discrepancies, team_of
from rollout_budget.wire import BudgetView, RunLimits, TeamLimits

Answer_co = TypeVar("Answer_co", covariant=True)
NO_LIMITS = TeamLimits()


@dataclass(frozen=True, slots=True)
class Step(Generic[Answer_co]):
    """What a command leaves behind: the next books, its answer, and the entries to append to the record."""

    books: Books
    answer: Answer_co
    entries: tuple[Entry, ...] = ()


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
    """Return what is left under every limit that applies, None without limits; at most 0 where grants are stopped.

    Raises:
        NotFound: the account was never opened.
    """
    if account not in books.runs:
        raise NotFound(f"run {account.run!r} has no account")
    left = [
        limit - books.count(owner, window).charged for owner, window, limit in _limits(books, account, step, now=now)
    ]
    if account in books.stopped or team_of(account) in books.stopped:
        left.append(0)
    return min(left, default=None)


def reserve(
    books: Books, account: Account, asks: Sequence[Ask], lease_s: float, share: Share, *, now: float
) -> Step[list[Reservation]]:
    """Hold all asks, or what `share` makes of what is left (see `Ledger.reserve`)."""
    require_lease(lease_s)
    step = common_step(asks)
    left = available(books, account, step, now=now)
    fresh = [index for index, ask in enumerate(asks) if not _answered(books, account, ask)]
    wanted = sum(asks[index].rollouts for index in fresh)
    freed: tuple[Entry, ...] = ()
    if fresh and left is not None and left < wanted:
        expired = _expire(books, [run for run in books.leases if run.team == account.team], now=now)
        books, freed = expired.books, expired.entries
        left = available(books, account, step, now=now)
    grants = [ask.rollouts for ask in asks]
    if fresh and left is not None and left < wanted:
        grants = shared(asks, fresh, share, max(left, 0))
    held = _hold(books, account, {asks[index]: grants[index] for index in fresh}, lease_s, now=now)
    answer = [reservation(held.books, account.team, ask.id, now=now) for ask in asks]
    return Step(held.books, answer, freed + held.entries)


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
    found = discrepancies(books.counts, entries)
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
    left = [limit - books.count(account, window).charged for window, limit in _team_limits(books, team, now=now)]
    return BudgetView(
        team=team,
        limits=books.teams.get(team, NO_LIMITS),
        usage=books.count(account).view(),
        available=min(left, default=None),
    )


def _limits(books: Books, account: Account, step: int | None, *, now: float) -> Iterator[tuple[Account, str, int]]:
    for window, limit in _team_limits(books, account.team, now=now):
        yield team_of(account), window, limit
    limits = books.runs[account]
    if limits.rollouts is not None:
        yield account, TOTAL, limits.rollouts
    if limits.rollouts_per_step is not None and step is not None:
        yield account, f"step:{step}", limits.rollouts_per_step


def _team_limits(books: Books, team: str, *, now: float) -> Iterator[tuple[str, int]]:
    limits, day = books.teams.get(team, NO_LIMITS), day_of(now)
    windows = (
        (TOTAL, limits.rollouts),
        (f"day:{day}", limits.rollouts_per_day),
        (f"month:{day[:7]}", limits.rollouts_per_month),
    )
    return ((window, limit) for window, limit in windows if limit is not None)


def _answered(books: Books, account: Account, ask: Ask) -> bool:
    """Whether this very ask was answered before (G3); another ask under its id is a conflict (G4)."""
    hold = books.holds.get((account.team, ask.id))
    if hold is None:
        return False
    require_same(hold.reservation, account, ask)
    return True


def _hold(books: Books, account: Account, grants: Mapping[Ask, int], lease_s: float, *, now: float) -> Step[None]:
    day = day_of(now)
    held, entries = answered(account, grants, day)
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
    left, released = settlement.used, 0
    entries: list[Entry] = []
    resolved: dict[str, Hold] = {}
    for key, hold in holds.items():
        held = hold.reservation
        if held.state != "reserved":
            continue
        used = min(left, held.rollouts)
        left, released = left - used, released + held.rollouts - used
        resolved[key] = replace(
            hold, reservation=replace(held, state="committed" if used else "released", used=used, expires_in_s=None)
        )
        moves: tuple[tuple[EntryKind, int], ...] = (("commit", used), ("release", held.rollouts - used))
        entries += [Entry(account, kind, key, count, hold.day, held.step) for kind, count in moves if count]
    last = settlement.reservations[-1] if settlement.reservations else ""
    step = holds[last].reservation.step if last else None
    if left:
        entries.append(Entry(account, "overage", last, left, today, step))
    if settlement.reference or settlement.tokens or settlement.seconds:
        figures = (settlement.reference, settlement.tokens, settlement.seconds)
        entries.append(Entry(account, "close", last, 0, today, step, *figures))
    return Settled(settlement.used - left, released, left), entries, resolved


def _expire(books: Books, accounts: Sequence[Account], *, now: float) -> Step[int]:
    lines: list[Entry] = []
    for account in accounts:
        due = [key for key, end in books.leases.get(account, {}).items() if end <= now]
        holds = {key: books.holds[account.team, key] for key in due}
        entries = [
            Entry(account, "expire", key, hold.reservation.rollouts, hold.day, hold.reservation.step)
            for key, hold in holds.items()
        ]
        gone = {
            key: replace(hold, reservation=replace(hold.reservation, state="expired")) for key, hold in holds.items()
        }
        books = books.after(entries, gone, dict.fromkeys(gone), account)
        lines += entries
    return Step(books, sum(entry.rollouts for entry in lines), tuple(lines))
