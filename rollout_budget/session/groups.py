"""A group as its trainer sees it: what to draw now, what was drawn, what to learn from it.

Owns the bookkeeping of one group. Talks to nobody: the session carries its reports and brings the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rollout_budget.errors import InvalidInput
from rollout_budget.outcomes import OutcomeRange
from rollout_budget.wire import (
    MAX_PROMPT_CHARS,
    CloseGroup,
    Decision,
    ObserveGroup,
    OpenedGroup,
    OpenGroup,
    SuppliedPrior,
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to open a group for.

    Attributes:
        key: stable identity, chosen by the caller (a data-set id or a hash); never inferred from the text.
        text: what the prior service reads, as far as its longest text; may be left out where a key was seen before, or
            without a service.
        group: id of the group, for trainers that have one; by default made of the step and the key.
        prior: the caller's own prediction, on the outcome scale.
    """

    key: str
    text: str | None = None
    group: str | None = None
    prior: SuppliedPrior | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """A group that its trainer has drawn whole, at a size of its own; fields as for `Group.add`."""

    prompt: Prompt
    outcomes: Sequence[float]
    rewards: Sequence[float] | None = None
    lost: int = 0
    tokens: int | None = None
    seconds: float | None = None


@dataclass(slots=True, weakref_slot=True)
class Group:
    """One prompt at one policy version.

    Attributes:
        want: rollouts to draw now; 0 when it is complete, or the budget is gone.
        outcomes: verifiable results so far, in the declared range, in the order they were added.
        rewards: what the loss uses, where that differs; as long as `outcomes`, or empty.
        lost: rollouts that were drawn and have no outcome: the budget is charged for them, nothing is learned from them.
        granted: rollouts that the budget holds for this group in all.
        local: whether it was decided here, without the service.
    """

    prompt: Prompt
    opened: OpenedGroup
    version: int
    scale: OutcomeRange
    attempt: int = 0
    local: bool = False
    want: int = 0
    granted: int = 0
    outcomes: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    lost: int = 0
    tokens: int | None = None
    seconds: float | None = None
    decision: Decision | None = None
    closed: bool = False
    _reported: int = 0

    @property
    def id(self) -> str:
        """The group's id."""
        return self.opened.group_id

    @property
    def size(self) -> int:
        """Rollouts with an outcome."""
        return len(self.outcomes)

    @property
    def used(self) -> int:
        """Rollouts drawn, with an outcome or without."""
        return self.size + self.lost

    @property
    def prior(self) -> float:
        """Predicted mean outcome, on the outcome scale, as it was before the first rollout."""
        return self.opened.prior

    @property
    def baseline(self) -> float:
        """What the group's mean and its prior come to, on the outcome scale; the prior before any rollout."""
        return self.opened.prior if self.decision is None else self.decision.baseline

    @property
    def advantages(self) -> list[float]:
        """One per rollout, in the order they were added: reward less its own baseline; not divided by anything."""
        return [] if self.decision is None else self.decision.advantages

    @property
    def unreported(self) -> bool:
        """Whether rollouts were added that the allocator has not taken."""
        return self.size > self._reported

    def add(
        self,
        outcomes: Sequence[float],
        rewards: Sequence[float] | None = None,
        *,
        lost: int = 0,
        tokens: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """Add rollouts: as many as are wanted, or fewer where some failed.

        Args:
            outcomes: verifiable results, each in the declared range.
            rewards: shaped rewards, one per outcome, any finite scale; then advantages are formed from these.
            lost: further rollouts that were drawn and cannot be verified.
            tokens: tokens of these rollouts.
            seconds: GPU-seconds of these rollouts.

        Raises:
            InvalidInput: an outcome lies outside the range, or rewards are not one per outcome.
        """
        values = [float(outcome) for outcome in outcomes]
        self.scale.to_unit(values)
        shaped = [] if rewards is None else [float(reward) for reward in rewards]
        if rewards is not None and len(shaped) != len(values):
            raise InvalidInput(f"group {self.id!r}: {len(values)} outcomes but {len(shaped)} rewards")
        if self.size and bool(self.rewards) != bool(shaped) and values:
            raise InvalidInput(f"group {self.id!r}: rewards for all rollouts of a group, or for none")
        self.outcomes += values
        self.rewards += shaped
        self.lost += lost
        if tokens is not None:
            self.tokens = (self.tokens or 0) + tokens
        if seconds is not None:
            self.seconds = (self.seconds or 0.0) + seconds

    def report(self) -> ObserveGroup:
        """Return all that was drawn so far, as `observe` takes it."""
        shaped = {"rewards": list(self.rewards)} if self.rewards else {}
        return ObserveGroup(group_id=self.id, attempt=self.attempt, outcomes=list(self.outcomes), **shaped)

    def taken(self, size: int) -> None:
        """Know that the allocator has taken the first `size` outcomes."""
        self._reported = size

    def heard(self, decision: Decision) -> None:
        """Take an answer of `observe`.

        What it asks for are first those rollouts that were granted before and have no outcome; those of them that were
        drawn and lost are not drawn again, since nothing is held for them.
        """
        self.decision = decision
        more = decision.more if decision.action == "more" else 0
        self.granted = max(self.granted, self.size + more)
        self.want = max(0, min(more, self.granted - self.used))

    def settlement(self) -> CloseGroup:
        """Return what was drawn in all, as `close` takes it; with the outcomes where a report of them was refused."""
        known = {"tokens": self.tokens, "seconds": self.seconds}
        told = {name: value for name, value in known.items() if value is not None}
        ends = {"outcomes": list(self.outcomes)} if self.unreported else {}
        return CloseGroup(group_id=self.id, attempt=self.attempt, used=self.used, **told, **ends)


def opening(prompt: Prompt, *, version: int, step: int, attempt: int) -> OpenGroup:
    """Return a prompt as `open` takes it."""
    return OpenGroup(
        group_id=prompt.group or f"step{step}-{prompt.key}",
        attempt=attempt,
        prompt_key=prompt.key,
        prompt=None if prompt.text is None else prompt.text[:MAX_PROMPT_CHARS],
        prior=prompt.prior,
        policy_version=version,
        step=step,
    )
