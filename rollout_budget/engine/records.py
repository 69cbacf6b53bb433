"""What the engine remembers of runs and groups. Plain frozen values on the unit scale; no behaviour beyond conversion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rollout_budget.pacing import Pacing
from rollout_budget.reliability import Reliability
from rollout_budget.wire import ClosedGroup, Decision, OpenedGroup, PlanAnswer, PriorSourceName, RunSpec


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as it stands, with what it has learned about its prior so far.

    `fingerprint` is the hash of the body it was declared with, which a later patch of `spec` does not change (G4).
    `withheld` says that nothing is granted now, because the books were restored from a backup a moment ago; not stored.
    `pacing` is what a run with `spec.pacing` knows of its demand; None before its first group.
    `moment` is the ledger's clock when the run was read, seconds since 1970; not stored.
    """

    team: str
    spec: RunSpec
    reliability: Reliability
    finished: bool = False
    fingerprint: str = ""
    pacing: Pacing | None = None
    withheld: bool = False
    moment: float = field(default=0.0, compare=False)

    @property
    def in_force(self) -> RunSpec:
        """The spec with the price that holds now: a price set by hand, or else the paced one once there is one."""
        spec, paced = self.spec, self.pacing
        if spec.price is not None or spec.pacing is None or paced is None or paced.price is None:
            return spec
        return spec.model_copy(update={"price": spec.outcome_range.core().squared_from_unit(paced.price)})


@dataclass(frozen=True, slots=True)
class GroupKey:
    """Identity of a group within its run."""

    group_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """One group from open to close.

    Attributes:
        fingerprint: hash of the body it was opened with (G4).
        prior, prior_error: frozen at open, unit scale; `prior_error` is None where unknown.
        grants: rollouts granted per wave, in order; the reservation of wave w is `reservation_id(..., w)`.
        outcomes: the largest set observed so far, unit scale, in the order last sent.
        opened, decision, closed: the answers given, so that a repeated request is answered the same (G3).
        first_outcomes: those of the first report that held any, unit scale.
        learned: whether the run was calibrated by this group when it was observed, as releases before this one did.
        predicted: what the prior source said, where the run's mean serves as `prior` because the source had proved
            useless; the run goes on judging the source by it, so that one that recovers is used again.
        degraded: why the prior source could not answer; empty where it did.
        plan_id: the plan that chose the prompt, if one did; the importance weight from it stands in `opened`.
        tokens, seconds: what is booked as used by the group, once it is closed.
        held_until: moment until which its grants are held at least; 0 where it is not known.
    """

    key: GroupKey
    fingerprint: str
    prompt_key: str
    policy: str
    policy_version: int
    step: int | None
    prior: float
    prior_error: float | None
    prior_source: PriorSourceName
    evidence_version: int
    grants: tuple[int, ...]
    opened: OpenedGroup
    lease_s: float
    outcomes: tuple[float, ...] = ()
    decision: Decision | None = None
    closed: ClosedGroup | None = None
    first_outcomes: tuple[float, ...] = ()
    learned: bool = False
    predicted: float | None = None
    degraded: str = ""
    plan_id: str | None = None
    tokens: int = 0
    seconds: float = 0.0
    held_until: float = 0.0

    @property
    def status(self) -> Literal["open", "stopped", "closed"]:
        """Where the group stands: `stopped` means that its last decision was to stop."""
        if self.closed is not None:
            return "closed"
        return "stopped" if self.decision is not None and self.decision.action == "stop" else "open"

    @property
    def judged(self) -> float:
        """The prior that the run judges by this group: what was predicted, even where the running mean took its place."""
        return self.prior if self.predicted is None else self.predicted

    @property
    def first_wave(self) -> int:
        """Rollouts of the first wave that was granted."""
        return next((grant for grant in self.grants if grant), 0)

    @property
    def granted(self) -> int:
        """Rollouts granted over all waves."""
        return sum(self.grants)


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """One choice of prompts as it was answered: keys, chances and figures, never a prompt's text.

    `fingerprint` is the hash of the request (G4).
    """

    plan_id: str
    fingerprint: str
    answer: PlanAnswer
