"""The ledger's state as a value, and its counters as projections of entries.

Owns what is remembered (limits, reservations, leases, counters) and how an entry moves a counter; owns no rule about
what may be granted (see `core`) and no clock. Nothing here is changed in place.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

from rollout_budget.ledger.base import Account, Discrepancy, Reservation, Selection
from rollout_budget.ledger.maps import Map
from rollout_budget.ledger.units import NO_AMOUNTS, Amounts, seconds
from rollout_budget.wire import (
    MAX_ROLLOUTS,
    Dimension,
    EntryKind,
    EntryView,
    RolloutCounts,
    RunLimits,
    TeamLimits,
    UsageRow,
)

TOTAL, DAY, MONTH, STEP = "total", "day:", "month:", "step:"
"""The window that never ends, and the patterns of the others: `day:2026-11-22`, `month:2026-11`, for runs `step:7`."""


class Counts(NamedTuple):
    """What the entries of one scope add up to. `references` is the sum of the group sizes savings are stated against.

    `tokens` and `milliseconds` were used; of these, those with `_overage` had not been held; `_reserved` is held now.
    """

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
    milliseconds: int = 0
    extra: int = 0
    shadow_refused: int = 0
    tokens_reserved: int = 0
    tokens_overage: int = 0
    milliseconds_reserved: int = 0
    milliseconds_overage: int = 0

    @property
    def charged(self) -> Amounts:
        """What counts against limits."""
        return Amounts(
            self.reserved + self.committed + self.overage,
            self.tokens + self.tokens_reserved,
            self.milliseconds + self.milliseconds_reserved,
        )

    def plus(self, other: Counts) -> Counts:
        """Return the field-wise sum."""
        return Counts(*map(operator.add, self, other))

    def view(self) -> RolloutCounts:
        """Return the same in the words of the REST interface; tokens saturate at the largest exact JSON integer."""
        counts: dict[str, float] = self._asdict()
        saved = counts.pop("references") - self.committed - self.overage
        for name in [name for name in counts if name.startswith("milliseconds")]:
            counts[name.replace("milliseconds", "seconds")] = seconds(int(counts.pop(name)))
        for name in ("tokens", "tokens_reserved", "tokens_overage"):
            counts[name] = min(counts[name], MAX_ROLLOUTS)
        return RolloutCounts(**counts, saved=saved)


NOTHING = Counts()

EFFECTS: Mapping[EntryKind, tuple[tuple[str, int], ...]] = {
    "reserve": (("granted", 1), ("reserved", 1)),
    "commit": (("reserved", -1), ("committed", 1)),
    "release": (("reserved", -1), ("released", 1)),
    "expire": (("reserved", -1), ("expired", 1)),
    "refuse": (("refused", 1),),
    "overage": (("overage", 1),),
    "shadow": (("shadow_refused", 1),),
    "close": (),
}
"""How the rollouts of an entry move the counters. What it used of tokens and time is added whatever its kind."""
HOLDS: Mapping[EntryKind, int] = {"reserve": 1, "commit": -1, "release": -1, "expire": -1}
"""How what the rollouts of an entry hold moves what is reserved of tokens and time."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the append-only record.

    Attributes:
        account, kind, reservation, rollouts, step: what happened to how many rollouts.
        day: the UTC day it counts on.
        reference: of `close` alone: the group size that savings are stated against.
        tokens, milliseconds: what was used: of `commit` what had been held for it, of `overage` and `close` more.
        held: tokens and milliseconds that these rollouts hold, from `reserve` on until one of the kinds in `HOLDS`.
        policy: whose usage it is.
        extra: of `reserve` alone: whether it came after its group's first wave.
    """

    account: Account
    kind: EntryKind
    reservation: str
    rollouts: int
    day: str
    step: int | None
    reference: int = 0
    tokens: int = 0
    milliseconds: int = 0
    held: Amounts = NO_AMOUNTS
    policy: str = ""
    extra: bool = False


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


class UsageKey(NamedTuple):
    """What a sum of usage is of."""

    account: Account
    policy: str
    day: str


@dataclass(frozen=True, slots=True)
class Books:
    """The whole state of a ledger.

    Attributes:
        teams, runs: limits.
        holds: every reservation ever answered, by team and id.
        leases: the reservations held now, per run, each with the time its lease ends.
        counts: counters by scope.
        sums: what all entries of a run, a policy and a day add up to.
        stopped: accounts whose counters were found wrong; nothing is granted to them.
    """

    teams: Map[str, TeamLimits] = field(default_factory=Map)
    runs: Map[Account, RunLimits] = field(default_factory=Map)
    holds: Map[tuple[str, str], Hold] = field(default_factory=Map)
    leases: Map[Account, Mapping[str, float]] = field(default_factory=Map)
    counts: Map[Scope, Counts] = field(default_factory=Map)
    sums: Map[UsageKey, Counts] = field(default_factory=Map)
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
            sums=usage_sums(self.sums, entries),
        )


def team_of(account: Account) -> Account:
    """Return the account of the whole team."""
    return Account(account.team, "")


def day_of(now: float) -> str:
    """Return the UTC day of a time in seconds since the epoch, as `2026-11-22`."""
    return datetime.fromtimestamp(now, tz=UTC).date().isoformat()


def scopes(account: Account, step: int | None, day: str) -> list[Scope]:
    """Return all scopes that a rollout is charged to: the team's first."""
    charged = [*team_scopes(account.team, day), Scope(account, TOTAL)]
    return charged if step is None else [*charged, Scope(account, STEP + str(step))]


def team_scopes(team: str, day: str) -> list[Scope]:
    """Return the scopes of a team that a rollout of this day is charged to."""
    own = Account(team, "")
    return [Scope(own, TOTAL), Scope(own, DAY + day), Scope(own, MONTH + day[:7])]


def pattern_of(window: str) -> str:
    """Return the pattern that a window is one of."""
    kind, colon, _ = window.partition(":")
    return kind + colon


def project(counts: Map[Scope, Counts], entries: Iterable[Entry]) -> Map[Scope, Counts]:
    """Return the counters with these entries added: the only way in which a counter ever moves."""
    moved: dict[Scope, Counts] = {}
    for (account, _, day, step), change in grain_sums(entries).items():
        for scope in scopes(account, step, day):
            moved[scope] = (moved[scope] if scope in moved else counts.get(scope, NOTHING)).plus(change)
    return counts.updated(moved) if moved else counts


def usage_sums(sums: Map[UsageKey, Counts], entries: Iterable[Entry]) -> Map[UsageKey, Counts]:
    """Return the sums of usage with these entries added."""
    moved: dict[UsageKey, Counts] = {}
    for (account, policy, day, _), change in grain_sums(entries).items():
        key = UsageKey(account, policy, day)
        moved[key] = (moved[key] if key in moved else sums.get(key, NOTHING)).plus(change)
    return sums.updated(moved) if moved else sums


def discrepancies(books: Books, entries: Sequence[Entry]) -> list[Discrepancy]:
    """Return every counter and every sum that is not the sum of its entries (G2)."""
    counts, sums = project(Map(), entries), usage_sums(Map(), entries)
    found = [
        (scope.account, scope.window, books.counts.get(scope, NOTHING), counts.get(scope, NOTHING))
        for scope in dict.fromkeys([*books.counts, *counts])
    ]
    found += [
        (key.account, usage_name(key.policy, key.day), books.sums.get(key, NOTHING), sums.get(key, NOTHING))
        for key in dict.fromkeys([*books.sums, *sums])
    ]
    return [
        Discrepancy(account, f"{where} {name}", counted, expected)
        for account, where, was, should in found
        for name, counted, expected in zip(Counts._fields, was, should, strict=True)
        if counted != expected
    ]


def usage_name(policy: str, day: str) -> str:
    """Return what an auditor calls a sum of usage."""
    return f"usage of {policy!r} on {day}"


def usage_rows(
    sums: Mapping[UsageKey, Counts], team: str | None, by: Sequence[Dimension], which: Selection
) -> list[UsageRow]:
    """Return counts grouped by `by`, in the order of those dimensions; of all teams if `team` is None."""
    rows: dict[tuple[str, ...], Counts] = {}
    for (account, policy, day), counts in sums.items():
        if team not in {None, account.team} or not _selected(which, account.run, policy, day):
            continue
        values = {"team": account.team, "run": account.run, "policy": policy, "day": day}
        row = tuple(values[dimension] for dimension in by)
        rows[row] = rows.get(row, NOTHING).plus(counts)
    left = [item for item in rows.items() if not which.after or item[0] > which.after]
    page = sorted(left, key=operator.itemgetter(0))[: which.limit]
    return [UsageRow(**dict(zip(by, row, strict=True)), counts=counts.view()) for row, counts in page]


def _selected(which: Selection, run: str, policy: str, day: str) -> bool:
    named = which.run in {None, run} and which.policy in {None, policy}
    return named and (which.since or "") <= day and (which.until is None or day <= which.until)


def entry_view(entry_id: int, entry: Entry) -> EntryView:
    """Return a line of the record in the words of the REST interface."""
    return EntryView(
        entry_id=entry_id,
        kind=entry.kind,
        run=entry.account.run,
        policy=entry.policy,
        reservation_id=entry.reservation,
        day=entry.day,
        step=entry.step,
        rollouts=entry.rollouts,
        tokens=entry.tokens,
        seconds=seconds(entry.milliseconds),
    )


def grain_sums(entries: Iterable[Entry]) -> dict[tuple[Account, str, str, int | None], Counts]:
    """Return the sums of entries by account, policy, day and step, from which all counters and sums of usage follow."""
    sums: defaultdict[tuple[Account, str, str, int | None], dict[str, int]] = defaultdict(NOTHING._asdict)
    for entry in entries:
        place, kind = sums[entry.account, entry.policy, entry.day, entry.step], entry.kind
        for name, sign in EFFECTS[kind]:
            place[name] += sign * entry.rollouts
        place["tokens"] += entry.tokens
        place["milliseconds"] += entry.milliseconds
        if kind in HOLDS:
            place["tokens_reserved"] += HOLDS[kind] * entry.held.tokens
            place["milliseconds_reserved"] += HOLDS[kind] * entry.held.milliseconds
        elif kind == "overage":
            place["tokens_overage"] += entry.tokens
            place["milliseconds_overage"] += entry.milliseconds
        elif kind == "close":
            place["groups_closed"] += entry.reference > 0
            place["references"] += entry.reference
        if entry.extra:
            place["extra"] += entry.rollouts
    return {key: Counts(**place) for key, place in sums.items()}
