"""What the allocator has not been told yet, and in which order to tell it: a pure state machine, no tasks, no clients.

The rule that makes the ledger right after an outage: **a group is closed through this journal and nowhere else**, with
the rollouts that were really drawn, under its own id, once its opening is known to the service. A close takes effect
once and books exactly what was drawn: within what is held as committed, beyond it as overage. So whatever the service
received, lost or answered in vain before, `committed + overage` of a group ends as its `used`.

- A group whose opening was never answered is opened again first, with the same body: if the first delivery did arrive
  this is a repetition; if not, its rollouts become an ordinary grant, or overage where the budget is gone.
- Grants whose answers were lost are released by the close.
- What is sent again is sent unchanged: the body of a close is fixed before it is first sent.

A run is told in the order declare, open, close, finish. A batch that the service refuses is halved until the group
that it refuses stands alone; that one is put aside, the others go on. The journal grows by one record per group closed
during an outage, and forgets a group when the service has answered its close.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, TypeVar

from rollout_budget.engine.answers import value_to_unit
from rollout_budget.errors import Conflict, InvalidInput, RolloutBudgetError
from rollout_budget.wire import (
    MAX_GROUPS,
    CloseAnswer,
    ClosedGroup,
    CloseGroup,
    CloseRequest,
    Decision,
    ObserveGroup,
    OpenedGroup,
    OpenGroup,
    OpenRequest,
    RunSpec,
)

K = TypeVar("K")
V = TypeVar("V")

RECENT = 4 * MAX_GROUPS
"""Answers kept per run for whoever asks again: a few training steps of the largest size."""

LOCAL: Literal["local_fallback"] = "local_fallback"
"""Why a group has what it has, where this process decided."""


@dataclass(frozen=True, slots=True)
class Key:
    """Identity of a group within its run."""

    group_id: str
    attempt: int

    @classmethod
    def of(cls, group: OpenGroup | ObserveGroup | CloseGroup) -> Key:
        """Return the key of a group in a request."""
        return cls(group.group_id, group.attempt)


@dataclass(frozen=True, slots=True)
class Entry:
    """One group. The default is one that another process opened: known to the service, nothing known here.

    Attributes:
        opening: the body it was opened with, under a lease of `lease_s`.
        opened: its prior and first grant, as answered by the service or here.
        known: whether the service has answered its opening.
        local: whether it is decided here from now on.
        held: rollouts that the service is known to have granted in all.
        observed: the outcomes last sent; `told` says whether the service has answered for them.
        asked: its close as the caller wrote it, and `closing` as it is sent: with the outcomes that were not told.
    """

    opening: OpenGroup | None = None
    lease_s: float = 0.0
    opened: OpenedGroup | None = None
    known: bool = True
    local: bool = False
    held: int = 0
    observed: ObserveGroup | None = None
    told: bool = True
    asked: CloseGroup | None = None
    closing: CloseGroup | None = None


@dataclass(frozen=True, slots=True)
class Declare:
    """Step: declare a run."""

    spec: RunSpec

    @property
    def run_id(self) -> str:
        """The run to declare."""
        return self.spec.run_id


@dataclass(frozen=True, slots=True)
class Open:
    """Step: open groups again whose first opening was not answered."""

    run_id: str
    request: OpenRequest


@dataclass(frozen=True, slots=True)
class Close:
    """Step: close groups."""

    run_id: str
    request: CloseRequest


@dataclass(frozen=True, slots=True)
class Finish:
    """Step: end a run."""

    run_id: str


Step = Declare | Open | Close | Finish


class Recent(OrderedDict[K, V], Generic[K, V]):
    """The last `RECENT` values."""

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > RECENT:
            self.popitem(last=False)


@dataclass(slots=True)
class RunState:
    """One run: its groups by stage (`live`: still drawn from; `unopened`, `closing`: closed here, to be told)."""

    spec: RunSpec
    known: bool
    live: dict[Key, Entry] = field(default_factory=dict)
    unopened: dict[Key, Entry] = field(default_factory=dict)
    closing: dict[Key, Entry] = field(default_factory=dict)
    closed: Recent[Key, tuple[CloseGroup, ClosedGroup]] = field(default_factory=Recent)
    refused: Recent[Key, RolloutBudgetError] = field(default_factory=Recent)
    finishing: bool = False
    most: int = MAX_GROUPS

    def entry(self, key: Key) -> Entry:
        """Return a group at whatever stage."""
        return self.live.get(key) or self.unopened.get(key) or self.closing.get(key) or Entry()

    def settled(self, key: Key) -> ClosedGroup:
        """Return where the rollouts of a closed group went, or will go if nothing that is held has run out."""
        if key in self.closed:
            return self.closed[key][1]
        entry = self.entry(key)
        used = 0 if entry.closing is None else entry.closing.used
        committed = min(used, entry.held)
        return ClosedGroup(
            group_id=key.group_id, committed=committed, released=entry.held - committed, overage=used - committed
        )

    def was_opened(self, group: OpenGroup) -> bool:
        """Say whether a group was opened before with this body.

        Raises:
            Conflict: it was opened with another one.
        """
        before = self.entry(Key.of(group)).opening
        if before is not None and before != group:
            raise Conflict(f"group {group.group_id!r}, attempt {group.attempt}, was opened before with another body")
        return before is not None

    def was_closed(self, group: CloseGroup) -> bool:
        """Say whether a group was closed before with this body.

        Raises:
            Conflict: it was closed with another one.
        """
        key = Key.of(group)
        before = self.closed[key][0] if key in self.closed else self.entry(key).asked
        if before is not None and before != group:
            raise Conflict(f"group {key.group_id!r}, attempt {key.attempt}, was closed before with another body")
        return before is not None

    def close(self, group: CloseGroup) -> Entry:
        """Return a group with its close as it will be sent: with the outcomes that the service was not told of.

        Raises:
            InvalidInput: outcomes lie outside the range or outnumber the rollouts.
        """
        entry = self.entry(Key.of(group))
        untold = None if entry.told or entry.observed is None else entry.observed.outcomes
        outcomes = untold if group.outcomes is None else group.outcomes
        if (
            outcomes is not None
            and value_to_unit(self.spec.outcome_range.core(), f"group {group.group_id!r}: outcome", outcomes).size
            > group.used
        ):
            raise InvalidInput(f"group {group.group_id!r}: {len(outcomes)} outcomes of {group.used} rollouts")
        return replace(entry, asked=group, closing=group.model_copy(update={"outcomes": outcomes}))

    def next(self) -> Step | None:
        """Return what to tell the service next."""
        if not self.known:
            return Declare(self.spec)
        if self.unopened:
            lease_s = next(iter(self.unopened.values())).lease_s
            batch = self._batch(entry for entry in self.unopened.values() if entry.lease_s == lease_s)
            openings = [entry.opening for entry in batch if entry.opening is not None]
            return Open(self.spec.run_id, OpenRequest(groups=openings, lease_s=lease_s))
        if self.closing:
            closings = [entry.closing for entry in self._batch(self.closing.values()) if entry.closing is not None]
            return Close(self.spec.run_id, CloseRequest(groups=closings))
        return Finish(self.spec.run_id) if self.finishing else None

    def _batch(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        """Return the first `most` entries of different groups: attempts of one group go one after the other."""
        batch: dict[str, Entry] = {}
        for entry in entries:
            if entry.closing is not None:
                batch.setdefault(entry.closing.group_id, entry)
            if len(batch) == self.most:
                break
        return batch.values()


class Journal:
    """All runs of one process. Methods that name a run raise `InvalidInput` where it was not declared here."""

    def __init__(self) -> None:
        self._runs: dict[str, RunState] = {}

    def declare(self, spec: RunSpec, *, known: bool) -> None:
        """Remember a run; `known` says whether the service has answered its declaration.

        Raises:
            Conflict: it was declared here before with another body.
        """
        state = self._runs.setdefault(spec.run_id, RunState(spec, known))
        if state.spec != spec:
            raise Conflict(f"run {spec.run_id!r} was declared before with another body")
        state.known |= known

    def run(self, run_id: str) -> RunState:
        """Return a run."""
        if run_id not in self._runs:
            raise InvalidInput(f"run {run_id!r} was not created by this client; create_run is safe to repeat")
        return self._runs[run_id]

    def opened(self, run_id: str, request: OpenRequest, answers: Sequence[OpenedGroup], *, known: bool) -> None:
        """Remember groups with the service's answers (`known`), or with our own; a repeated opening changes nothing."""
        state = self.run(run_id)
        for group, answer in zip(request.groups, answers, strict=True):
            key = Key.of(group)
            if (known and key in state.closed) or state.entry(key).opening is not None:
                continue
            local = not known or answer.reason == LOCAL
            held = 0 if local else answer.grant
            state.live[key] = Entry(group, request.lease_s, answer, known=known, local=local, held=held)

    def observed(
        self, run_id: str, groups: Sequence[ObserveGroup], decisions: Sequence[Decision], *, told: bool
    ) -> None:
        """Remember outcomes with the service's decisions (`told`), or with our own: such a group stays ours."""
        state = self.run(run_id)
        for group, decision in zip(groups, decisions, strict=True):
            key = Key.of(group)
            if key in state.unopened or key in state.closing or key in state.closed:
                continue
            entry = state.live.get(key, Entry())
            held = max(entry.held, len(group.outcomes) + decision.more) if told else entry.held
            state.live[key] = replace(entry, observed=group, told=told, local=entry.local or not told, held=held)

    def close(self, run_id: str, groups: Sequence[CloseGroup]) -> list[Entry]:
        """Write closes down before they are sent; return the groups that were not closed before.

        Raises:
            Conflict: a group was closed before with another body; nothing was written.
            InvalidInput: outcomes lie outside the range or outnumber the rollouts; nothing was written.
        """
        state = self.run(run_id)
        fresh = {Key.of(group): state.close(group) for group in groups if not state.was_closed(group)}
        for key, entry in fresh.items():
            state.live.pop(key, None)
            state.refused.pop(key, None)
            (state.closing if entry.known else state.unopened)[key] = entry
        return list(fresh.values())

    def finish(self, run_id: str) -> None:
        """Write down the close of groups that nobody closed and the service cannot, as far as they were observed."""
        local = [
            entry.observed for entry in self.run(run_id).live.values() if entry.observed is not None and entry.local
        ]
        self.close(
            run_id,
            [CloseGroup(group_id=seen.group_id, attempt=seen.attempt, used=len(seen.outcomes)) for seen in local],
        )

    @property
    def unreported(self) -> int:
        """Rollouts of closed groups that the service has not booked yet."""
        waiting = (
            entry for run in self._runs.values() for pool in (run.unopened, run.closing) for entry in pool.values()
        )
        return sum(entry.closing.used for entry in waiting if entry.closing is not None)

    @property
    def has_untold(self) -> bool:
        """Whether the close of some group was not answered yet."""
        return any(run.unopened or run.closing for run in self._runs.values())

    def next(self) -> Step | None:
        """Return the next thing to tell the service, None when it knows all; end it by `done` or `refuse`."""
        return next((step for step in map(RunState.next, self._runs.values()) if step is not None), None)

    def done(self, step: Step, answer: object) -> None:
        """Take in the service's answer to a step."""
        state = self.run(step.run_id)
        state.most = MAX_GROUPS
        match step:
            case Declare():
                state.known = True
            case Open(request=request):
                for key in map(Key.of, request.groups):
                    state.closing[key] = replace(state.unopened.pop(key), known=True)
            case Close(request=request):
                assert isinstance(answer, CloseAnswer)  # noqa: S101 - a step is ended by the answer to it
                for group, closed in zip(request.groups, answer.groups, strict=True):
                    entry = state.closing.pop(Key.of(group))
                    state.closed[Key.of(group)] = (entry.asked or group, closed)
            case Finish():
                state.finishing = False

    def refuse(self, step: Step, error: RolloutBudgetError) -> str:
        """Take in that the service refused a step for good; return what it will not do, empty if that is not clear yet."""
        state = self.run(step.run_id)
        match step:
            case Declare():
                state.known = True
                return f"run {step.run_id!r} as declared here"
            case Finish():
                state.finishing = False
                return f"the end of run {step.run_id!r}"
            case Open(request=request) | Close(request=request) if len(request.groups) > 1:
                state.most = len(request.groups) // 2
                return ""
            case Open(request=request) | Close(request=request):
                state.most = MAX_GROUPS
                key = Key.of(request.groups[0])
                body = state.entry(key).closing
                state.unopened.pop(key, None)
                state.closing.pop(key, None)
                state.refused[key] = error
                return f"{body.used if body else 0} rollouts of group {key.group_id!r}, attempt {key.attempt}"
