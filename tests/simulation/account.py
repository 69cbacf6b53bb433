"""Books kept beside the ledger's: from committed entries, from answers, and from what trainers really drew.

Owns the invariants. It adds up by itself, in plain dictionaries, and shares no rule with the ledger; what breaks an
invariant is written down with the number of its guarantee, and the simulation ends.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rollout_budget.engine.memory import MemoryTransaction
from rollout_budget.ledger.books import Entry
from rollout_budget.wire import ClosedGroup, Decision, OpenedGroup, RunLimits, TeamLimits

Run = tuple[str, str]
"""Team and run."""
Group = tuple[str, str]
"""Team and `run/group/attempt`, as reservation ids begin."""
NAMES = {
    "reserve": "reserved",
    "commit": "committed",
    "release": "released",
    "expire": "expired",
    "refuse": "refused",
}
"""Counters by the entries that move them up."""


@dataclass(slots=True)
class Reservation:
    """One id: what it was granted and what became of it."""

    granted: int = 0
    refused: int = 0
    held: int = 0
    promised_until: float = float("-inf")
    """No lease may end before: when the request was sent whose answer came, plus the lease."""


@dataclass(slots=True)
class Account:
    """Everything known, by its source: `commit` (entries), `answered` (the service), `drew` (the trainers)."""

    now: Callable[[], float]
    violations: list[str] = field(default_factory=list)
    read: int = 0
    transactions: int = 0
    reservations: defaultdict[tuple[str, str], Reservation] = field(default_factory=lambda: defaultdict(Reservation))
    charged: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    sums: defaultdict[Run, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    booked: Counter[Group] = field(default_factory=Counter)
    drawn: Counter[Group] = field(default_factory=Counter)
    minted: set[Group] = field(default_factory=set)
    opened: dict[Group, OpenedGroup] = field(default_factory=dict)
    closed: dict[tuple[Group, int], ClosedGroup] = field(default_factory=dict)
    decisions: dict[Group, tuple[tuple[float, ...], Decision]] = field(default_factory=dict)
    settled: Counter[Group] = field(default_factory=Counter)

    def broken(self, guarantee: str, what: str) -> None:
        """Write a violation down."""
        self.violations.append(f"{guarantee}: {what}")

    # What was committed.

    async def commit(self, transaction: MemoryTransaction) -> None:
        """Take in the entries of a transaction in the moment in which it commits; nothing here ever waits."""
        entries = transaction.ledger._entries[self.read :]
        self.read += len(entries)
        self.transactions += 1
        refused_now: Counter[tuple[str, str]] = Counter()
        for entry in entries:
            await self._limits(transaction, entry)
            self._move(entry, refused_now)
        for key, rollouts in refused_now.items():
            self.reservations[key].refused += rollouts
        if entries:
            await self._counters(transaction)

    def cut_off(self, transaction: MemoryTransaction) -> None:
        """G9: nothing is left of a transaction that did not commit."""
        if len(transaction.ledger._entries) != self.read:
            self.broken("G9", "a transaction that did not commit has left entries")

    async def _limits(self, transaction: MemoryTransaction, entry: Entry) -> None:
        """G1: a grant keeps within every limit, as they stand in this transaction."""
        team, run = entry.account.team, entry.account.run
        charge = entry.rollouts if entry.kind in {"reserve", "overage"} else 0
        charge -= entry.rollouts if entry.kind in {"release", "expire"} else 0
        for scope in _scopes(entry):
            self.charged[scope] += charge
        if entry.kind == "reserve":
            limits = (await transaction.ledger.budget(team)).limits
            own = (await transaction.run(team, run)).spec.limits
            for scope, limit in _limits(entry, limits, own):
                if limit is not None and self.charged[scope] > limit:
                    self.broken("G1", f"a grant takes {scope} to {self.charged[scope]} of {limit}")

    def _move(self, entry: Entry, refused_now: Counter[tuple[str, str]]) -> None:
        key = (entry.account.team, entry.reservation)
        group = (entry.account.team, entry.reservation.rpartition("/")[0])
        sums = self.sums[entry.account.team, entry.account.run]
        sums[NAMES.get(entry.kind, entry.kind)] += entry.rollouts
        if entry.kind == "reserve":
            self._grant(key, group, entry.rollouts)
            sums["granted"] += entry.rollouts
        elif entry.kind in {"commit", "release", "expire"}:
            self._resolve(key, entry)
            sums["reserved"] -= entry.rollouts
        elif entry.kind == "refuse":
            refused_now[key] += entry.rollouts
        if entry.kind in {"commit", "overage"}:
            self.booked[group] += entry.rollouts
        if self.booked[group] > self.drawn[group]:
            self.broken("G9", f"{group} has {self.booked[group]} rollouts booked, {self.drawn[group]} were drawn")

    def _grant(self, key: tuple[str, str], group: Group, rollouts: int) -> None:
        held = self.reservations[key]
        if held.granted or held.refused:
            self.broken("G5" if held.refused else "G3", f"{key} was answered before and is granted again")
        if group not in self.minted:
            self.broken("G3", f"{key} belongs to no group that a trainer opened")
        held.granted += rollouts
        held.held += rollouts

    def _resolve(self, key: tuple[str, str], entry: Entry) -> None:
        held = self.reservations[key]
        held.held -= entry.rollouts
        if held.held < 0:
            self.broken("G6", f"{key} gave {entry.rollouts} rollouts as {entry.kind} that it did not hold")
        if entry.kind == "expire" and held.promised_until > self.now():
            self.broken("G7", f"the lease of {key} ended {held.promised_until - self.now():.3f} s early")

    async def _counters(self, transaction: MemoryTransaction) -> None:
        """G2: the ledger's counters are what the entries add up to, run by run."""
        found = {(row.team, row.run): row.counts for row in await transaction.ledger.usage(None, ("team", "run"))}
        names = ("granted", "reserved", "committed", "released", "expired", "refused", "overage")
        for run, sums in self.sums.items():
            counted = found.get(run)
            for name in names:
                count = 0 if counted is None else getattr(counted, name)
                if count != sums[name]:
                    self.broken("G2", f"{name} of {run} is counted as {count}, the entries say {sums[name]}")

    # What was answered, whether or not the answer arrived.

    def answered_open(self, team: str, run: str, groups: list[OpenedGroup]) -> None:
        """G3, G5: one answer per group; what it grants stands in the entries."""
        for answer in groups:
            group = (team, f"{run}/{answer.group_id}/{answer.attempt}")
            if self.opened.setdefault(group, answer) != answer:
                self.broken("G3", f"{group} was opened with two answers: {self.opened[group]} and {answer}")
            if self.reservations[team, f"{group[1]}/0"].granted != answer.grant:
                self.broken("G9", f"{group} was granted {answer.grant} rollouts that stand in no entry")

    def answered_observe(self, group: Group, outcomes: tuple[float, ...], decision: Decision) -> None:
        """G3: the same outcomes get the same decision, until more are known."""
        before, first = self.decisions.get(group, ((), decision))
        if decision.reason == "closed" or decision.ingredients.k != len(outcomes):
            return  # the service knows of more outcomes by now, and answers for those
        if outcomes == before and decision != first:
            self.broken("G3", f"{group} was decided twice for {len(outcomes)} outcomes: {first} and {decision}")
        self.decisions[group] = (outcomes, decision)
        if decision.more > self.granted(group):
            self.broken("G9", f"{group} may draw {decision.more} more, {self.granted(group)} were granted in all")

    def answered_close(self, group: Group, used: int, answer: ClosedGroup) -> None:
        """G3, G9: one answer per close, and what it says is booked."""
        if self.closed.setdefault((group, used), answer) != answer:
            self.broken("G3", f"{group} was closed with two answers: {self.closed[group, used]} and {answer}")
        self.settled[group] = max(self.settled[group], answer.committed + answer.overage)
        if self.booked[group] < self.settled[group]:
            self.broken("G9", f"{group}: {self.settled[group]} acknowledged, {self.booked[group]} booked")

    def promise(self, group: Group, until: float) -> None:
        """G7: an answer that arrived says that what the group holds stays held until then."""
        for _, held in self._waves(group):
            held.promised_until = max(held.promised_until, until)

    # What was drawn.

    def mint(self, group: Group) -> None:
        """A trainer is about to open a group."""
        self.minted.add(group)

    def drew(self, group: Group, rollouts: int) -> None:
        """A trainer has drawn rollouts."""
        self.drawn[group] += rollouts

    def granted(self, group: Group) -> int:
        """Return what a group was granted in all its waves."""
        return sum(held.granted for _, held in self._waves(group))

    def nothing_lost(self, exact: set[Group]) -> None:
        """At the end: what trainers drew and could report is booked to the last rollout, and nothing else is."""
        for group in sorted(exact):
            if self.booked[group] != self.drawn[group]:
                self.broken("G10", f"{group}: {self.drawn[group]} rollouts drawn, {self.booked[group]} booked")

    def _waves(self, group: Group) -> Iterator[tuple[int, Reservation]]:
        wave = 0
        while (group[0], key := f"{group[1]}/{wave}") in self.reservations:
            yield wave, self.reservations[group[0], key]
            wave += 1


def _scopes(entry: Entry) -> Iterator[tuple[str, str, str]]:
    """Where an entry counts against a limit: of its team in all, by day and by month; of its run, in all and by step."""
    team, run = entry.account.team, entry.account.run
    yield team, "", "total"
    yield team, "", entry.day
    yield team, "", entry.day[:7]
    yield team, run, "total"
    if entry.step is not None:
        yield team, run, f"step {entry.step}"


def _limits(entry: Entry, team: TeamLimits, run: RunLimits) -> Iterator[tuple[tuple[str, str, str], int | None]]:
    values = (team.rollouts, team.rollouts_per_day, team.rollouts_per_month, run.rollouts, run.rollouts_per_step)
    return zip(_scopes(entry), values, strict=False)
