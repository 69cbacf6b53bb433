"""The ledger's state as a value, and its counters as projections of entries.

Owns what is remembered (limits, reservations, leases, counters) and how an entry moves a counter; owns no rule about
what may be granted (see `core`) and no clock. Nothing here is changed in place.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

from rollout_budget.ledger.base import Account, Discrepancy, EntryKind, Reservation
from rollout_budget.ledger.maps import Map
from rollout_budget.wire import MAX_ROLLOUTS, Dimension, RolloutCounts, RunLimits, TeamLimits, UsageRow

TOTAL = "total"
"""The window that never ends; the others are `day:2026-11-22`, `month:2026-11` and, for runs, `step:7`."""


class Counts(NamedTuple):
    """What the entries of one scope add up to. `references` is the sum of the group sizes savings are stated against."""

    granted: int = 0
    reserved: int = 0
    committed: int = 0
    released: int = 0
    expired: int = 0
    refused: int = 0
    overage: int = 0
    groups_closed: int = 0
    references: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def charged(self) -> int:
        """What counts against a limit."""
        return self.reserved + self.committed + self.overage

    def plus(self, other: Counts) -> Counts:
        """Return the field-wise sum."""
        return Counts(*map(operator.add, self, other))

    def view(self) -> RolloutCounts:
        """Return the same in the words of the REST interface; tokens saturate at the largest exact JSON integer."""
        counts = self._asdict()
        saved = counts.pop("references") - self.committed - self.overage
        counts["tokens"] = min(self.tokens, MAX_ROLLOUTS)
        return RolloutCounts(**counts, saved=saved)


NOTHING = Counts()

EFFECTS: Mapping[EntryKind, tuple[tuple[str, int], ...]] = {
    "reserve": (("granted", 1), ("reserved", 1)),
    "commit": (("reserved", -1), ("committed", 1)),
    "release": (("reserved", -1), ("released", 1)),
    "expire": (("reserved", -1), ("expired", 1)),
    "refuse": (("refused", 1),),
    "overage": (("overage", 1),),
    "close": (),
}
"""How the rollouts of an entry move the counters."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the append-only record. `day` is the one it counts on; the last three are of `close` alone."""

    account: Account
    kind: EntryKind
    reservation: str
    rollouts: int
    day: str
    step: int | None
    reference: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hold:
    """A reservation with the day it counts on. Its lease stands in `Books.leases` while it is held."""

    reservation: Reservation
    day: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a counter counts: a run, or a whole team where `account.run` is empty, within one window of time or steps."""

    account: Account
    window: str


@dataclass(frozen=True, slots=True)
class Books:
    """The whole state of a ledger.

    Attributes:
        teams, runs: limits.
        holds: every reservation ever answered, by team and id.
        leases: the reservations held now, per run, each with the time its lease ends.
        counts: counters by scope.
        stopped: accounts whose counters were found wrong; nothing is granted to them.
    """

    teams: Map[str, TeamLimits] = field(default_factory=Map)
    runs: Map[Account, RunLimits] = field(default_factory=Map)
    holds: Map[tuple[str, str], Hold] = field(default_factory=Map)
    leases: Map[Account, Mapping[str, float]] = field(default_factory=Map)
    counts: Map[Scope, Counts] = field(default_factory=Map)
    stopped: frozenset[Account] = frozenset()

    def count(self, account: Account, window: str = TOTAL) -> Counts:
        """Return the counters of a scope."""
        return self.counts.get(Scope(account, window), NOTHING)

    def after(
        self, entries: Sequence[Entry], holds: Mapping[str, Hold], leases: Mapping[str, float | None], account: Account
    ) -> Books:
        """Return the books after `entries`, with changed `holds` and `leases` (None ends one) of `account`."""
        if not (entries or holds or leases):
            return self
        lasting = {**self.leases.get(account, {}), **leases}
        return replace(
            self,
            holds=self.holds.updated({(account.team, key): hold for key, hold in holds.items()}),
            leases=self.leases.updated({account: {key: end for key, end in lasting.items() if end is not None}}),
            counts=project(self.counts, entries),
        )


def team_of(account: Account) -> Account:
    """Return the account of the whole team."""
    return Account(account.team, "")


def day_of(now: float) -> str:
    """Return the UTC day of a time in seconds since the epoch, as `2026-11-22`."""
    return datetime.fromtimestamp(now, tz=UTC).date().isoformat()


def project(counts: Map[Scope, Counts], entries: Iterable[Entry]) -> Map[Scope, Counts]:
    """Return the counters with these entries added: the only way in which a counter ever moves."""
    moved: dict[Scope, Counts] = {}
    for (account, day, step), sums in _sums(entries).items():
        change = Counts(**sums)  # type: ignore[arg-type]  # only `seconds` is ever a fraction
        for scope in _scopes(account, day, step):
            moved[scope] = (moved[scope] if scope in moved else counts.get(scope, NOTHING)).plus(change)
    return counts.updated(moved) if moved else counts


def discrepancies(counts: Map[Scope, Counts], entries: Iterable[Entry]) -> list[Discrepancy]:
    """Return every counter that is not the sum of its entries (G2). Seconds are fractions and not compared."""
    recomputed = project(Map(), entries)
    return [
        Discrepancy(scope.account, f"{scope.window} {name}", counted, expected)
        for scope in dict.fromkeys([*counts, *recomputed])
        for name, counted, expected in _integers(counts.get(scope, NOTHING), recomputed.get(scope, NOTHING))
        if counted != expected
    ]


def usage_rows(books: Books, team: str | None, by: Sequence[Dimension], run: str | None) -> list[UsageRow]:
    """Return counts grouped by `by`, in the order of those dimensions; of all teams if `team` is None."""
    rows: dict[tuple[str | None, ...], Counts] = {}
    for scope, counts in books.counts.items():
        account, (window, _, day) = scope.account, scope.window.partition(":")
        if window != "day" or not account.run or team not in {None, account.team} or run not in {None, account.run}:
            continue
        values = {"team": account.team, "run": account.run, "day": day}
        row = tuple(values[dimension] for dimension in by)
        rows[row] = rows.get(row, NOTHING).plus(counts)
    ordered = sorted(rows.items(), key=operator.itemgetter(0))
    return [UsageRow(**dict(zip(by, row, strict=True)), counts=counts.view()) for row, counts in ordered]


def _sums(entries: Iterable[Entry]) -> dict[tuple[Account, str, int | None], dict[str, float]]:
    sums: defaultdict[tuple[Account, str, int | None], dict[str, float]] = defaultdict(NOTHING._asdict)
    for entry in entries:
        place = sums[entry.account, entry.day, entry.step]
        for name, sign in EFFECTS[entry.kind]:
            place[name] += sign * entry.rollouts
        if entry.kind == "close":
            place["groups_closed"] += entry.reference > 0
            place["references"] += entry.reference
            place["tokens"] += entry.tokens
            place["seconds"] += entry.seconds
    return sums


def _scopes(account: Account, day: str, step: int | None) -> Iterator[Scope]:
    team = team_of(account)
    for owner in (team, account):
        yield Scope(owner, TOTAL)
        yield Scope(owner, f"day:{day}")
    yield Scope(team, f"month:{day[:7]}")
    if step is not None:
        yield Scope(account, f"step:{step}")


def _integers(counted: Counts, expected: Counts) -> Iterator[tuple[str, int, int]]:
    names = Counts._fields[:-1]
    return zip(names, counted[:-1], expected[:-1], strict=True)
