"""The trainers' side: steps, waves, and the real client's rules for asking, trying again and deciding alone.

When to ask is `rollout_budget.client`'s own `Breaker`, when to try again its own `Retries`; the journal is modelled by
what it would tell (openings, then closings, in batches). A step whose calls fail goes on with the first wave alone.
What was drawn is told when the service is back: at the end `lost` says how many steps the databases never booked.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from benchmarks.scale.events import Loop, Process
from benchmarks.scale.mix import Mix, RunSpec
from benchmarks.scale.world import Call, Region, Team
from rollout_budget.client._exchange import TIMEOUT, Failure, Retries
from rollout_budget.client.breaker import Breaker
from rollout_budget.client.resilient import DEADLINE_S, PROBE_DEADLINE_S
from rollout_budget.errors import Unavailable
from rollout_budget.wire import MAX_GROUPS

RETRY_AFTER_S = 1.0
"""What the service says with a 503."""
ATTEMPT_S = float(TIMEOUT.read or 10.0)
LATE = 0.05
"""A step is late if our calls took more than this share of it."""

REFUSED = Failure(Unavailable("503"), again=True, after_s=RETRY_AFTER_S)
UNANSWERED = Failure(Unavailable("no answer"), again=True, perhaps_done=True)


@dataclass(slots=True)
class Trainer:
    """One run's client: breaker, journal (steps to tell: number, groups, whether their opening is known), counts."""

    spec: RunSpec
    team: Team
    breaker: Breaker = field(default_factory=Breaker)
    journal: list[tuple[int, int, bool]] = field(default_factory=list)
    booked: set[int] = field(default_factory=set)
    closed: int = 0


@dataclass
class Record:
    """What happened: calls as moment, seconds, kind and whether the giant's; steps as moment and seconds waited."""

    moment: array[float] = field(default_factory=lambda: array("d"))
    seconds: array[float] = field(default_factory=lambda: array("d"))
    kind: array[int] = field(default_factory=lambda: array("b"))
    giant: array[int] = field(default_factory=lambda: array("b"))
    failed: array[float] = field(default_factory=lambda: array("d"))
    step_moment: array[float] = field(default_factory=lambda: array("d"))
    step_waited: array[float] = field(default_factory=lambda: array("d"))
    step_late: array[int] = field(default_factory=lambda: array("b"))
    step_alone: array[int] = field(default_factory=lambda: array("b"))
    step_giant: array[int] = field(default_factory=lambda: array("b"))
    backlog: array[float] = field(default_factory=lambda: array("d"))


KINDS = ("open", "observe", "last", "close")


class Trainers:
    """All runs of a mix against one region."""

    def __init__(self, loop: Loop, region: Region, mix: Mix, phases: list[float]) -> None:
        self.loop = loop
        self.region = region
        self.record = Record()
        self.retries = Retries()
        self.runs = [Trainer(spec, region.teams[spec.team]) for spec in mix.runs]
        self.stopped = False
        for run, phase in zip(self.runs, phases, strict=True):
            loop.spawn(self._train(run), phase * run.spec.period_s)
        loop.spawn(self._watch())

    @property
    def backlog(self) -> int:
        """Steps closed and not yet told."""
        return sum(len(run.journal) for run in self.runs)

    @property
    def lost(self) -> int:
        """Steps that were closed, are not waiting to be told, and were never booked."""
        return sum(run.closed - len(run.booked.union(step for step, _, _ in run.journal)) for run in self.runs)

    def drain(self) -> None:
        """Begin no more steps; tell what is untold as soon as a probe is due."""
        self.stopped = True

    def _train(self, run: Trainer) -> Process:
        spec = run.spec
        while not self.stopped:
            began, step = self.loop.now, run.closed
            known = yield from self._asked(run, "open", spec.groups)
            waited, alone = self.loop.now - began, not known
            for kind, groups in spec.calls()[1:-1]:
                yield spec.wave_s
                before = self.loop.now
                alone = alone or not (yield from self._asked(run, kind, groups))
                waited += self.loop.now - before
                if alone:
                    break
            before = self.loop.now
            run.closed += 1
            run.journal.append((step, spec.groups, known))
            yield from self._catch_up(run)
            waited += self.loop.now - before
            self._step(run, waited, alone=alone)
            yield spec.train_s
        while run.journal:
            yield max(0.05, run.breaker.probe_at - self.loop.now)
            yield from self._catch_up(run)

    def _step(self, run: Trainer, waited: float, *, alone: bool) -> None:
        record = self.record
        record.step_moment.append(self.loop.now)
        record.step_waited.append(waited)
        record.step_late.append(waited > LATE * run.spec.period_s)
        record.step_alone.append(alone)
        record.step_giant.append(run.team.number == 0)

    def _asked(self, run: Trainer, kind: str, groups: int) -> Process:
        yield from self._catch_up(run)
        return (yield from self._ask(run, kind, groups, ()))

    def _catch_up(self, run: Trainer) -> Process:
        while run.journal:
            known = run.journal[0][2]
            batch: list[tuple[int, int, bool]] = []
            total = 0
            for entry in run.journal:
                if entry[2] != known or (batch and total + entry[1] > MAX_GROUPS):
                    break
                batch.append(entry)
                total += entry[1]
            steps = tuple(step for step, _, _ in batch)
            if not (yield from self._ask(run, "close" if known else "open", total, steps if known else ())):
                return
            rest = run.journal[len(batch) :]
            run.journal = rest if known else [*((step, groups, True) for step, groups, _ in batch), *rest]

    def _ask(self, run: Trainer, kind: str, groups: int, steps: tuple[int, ...]) -> Process:
        """Ask as `ResilientAllocator._ask` does, and say whether there was an answer."""
        began = self.loop.now
        if not run.breaker.allows(began):
            return False
        deadline_s = PROBE_DEADLINE_S if run.breaker.is_open else DEADLINE_S
        run.breaker = run.breaker.sent(began)
        answered = yield from self._attempts(Call(kind, groups, run.team, run.booked, steps), began + deadline_s)
        run.breaker = run.breaker.succeeded() if answered else run.breaker.failed(self.loop.now)
        record = self.record
        record.moment.append(began)
        record.seconds.append(self.loop.now - began)
        record.kind.append(KINDS.index(kind))
        record.giant.append(run.team.number == 0)
        if not answered:
            record.failed.append(began)
        return answered

    def _attempts(self, call: Call, ends: float) -> Process:
        """Send as `Http._send_with_retries` does, until `ends`."""
        began, attempts = self.loop.now, 0
        while True:
            attempts += 1
            status = yield self.region.send(call, min(ATTEMPT_S, ends - self.loop.now))
            if status == "ok":
                return True
            failure = UNANSWERED if status is None else REFUSED
            wait_s = self.retries.wait_s(failure, attempts, self.loop.now - began)
            if wait_s is None or self.loop.now + wait_s >= ends:
                return False
            yield wait_s

    def _watch(self) -> Process:
        while not self.stopped:
            self.record.backlog.append(float(self.backlog))
            yield 1.0
