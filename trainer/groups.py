"""A group under way, what becomes of it, and what a step's groups cost in all. Pure: no clock, no calls.

Owns the conversions between the allocator's words and the learner's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

from rollout_budget.wire import CloseGroup, Decision, ObserveGroup, OpenedGroup
from trainer.types import Problem, RolloutGroup, Sample

MAX_ID_CHARS = 200
"""Longest group id that the allocator takes."""


@dataclass(frozen=True, slots=True)
class StepStats:
    """What a step's rollouts cost.

    Attributes:
        groups: with at least one rollout.
        refused: groups that got no rollout because the budget is gone.
        failed: groups given back because no server could generate for them.
        granted: rollouts granted over all waves.
        used: rollouts drawn, as committed at the close.
        cancelled: rollouts under way when enough groups were complete: begun in vain, not drawn, on nobody's account.
        without_signal: groups whose outcomes were all equal and that a refill replaced; their rollouts are in `used`.
        saved: reference group size x groups - used; negative if more were drawn.
        extended: groups that drew more than their first wave.
        waves: waves drawn over all groups.
        tokens: sampled tokens.
        seconds: the whole step, on the clock.
        allocator_calls: calls to the allocator.
        allocator_s: the longest chain of waits for the allocator: opening, each group's decisions, closing.
        longest_wait_s: longest time that a group waited for a decision.
        degraded: whether the prior or the allocator could not be used for some group.
        fallback: whether some decision was made in this process because the allocator was away.
        detail: why.
        request_ids: of calls to the allocator that failed or were answered without a prior, as the services' logs name them.
    """

    groups: int = 0
    refused: int = 0
    failed: int = 0
    granted: int = 0
    used: int = 0
    cancelled: int = 0
    without_signal: int = 0
    saved: int = 0
    extended: int = 0
    waves: int = 0
    tokens: int = 0
    seconds: float = 0.0
    allocator_calls: int = 0
    allocator_s: float = 0.0
    longest_wait_s: float = 0.0
    degraded: bool = False
    fallback: bool = False
    detail: str = ""
    request_ids: tuple[str, ...] = ()

    def __add__(self, other: StepStats) -> StepStats:
        """Return the cost of two rounds of one step."""
        numbers = [item.name for item in fields(self) if item.name not in {"detail", "request_ids"}]
        sums = {name: getattr(self, name) + getattr(other, name) for name in numbers}
        texts = dict.fromkeys(text for text in (self.detail, other.detail) if text)
        return StepStats(
            **{
                **sums,
                "longest_wait_s": max(self.longest_wait_s, other.longest_wait_s),
                "degraded": self.degraded or other.degraded,
                "fallback": self.fallback or other.fallback,
                "detail": "; ".join(texts),
                "request_ids": (*self.request_ids, *other.request_ids),
            }
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """How a run wants its groups.

    Attributes:
        leave_one_out: take the allocator's advantages, whose baselines leave each sample out; else every sample has its
            outcome less the group's one baseline, own outcome included (arXiv 2603.10848).
        first_wave_only: later samples have no advantage.
        weighted: weigh the loss as the prompt's plan says.
    """

    leave_one_out: bool = True
    first_wave_only: bool = False
    weighted: bool = False

    def advantages(self, decision: Decision, outcomes: Sequence[float], first_wave: int) -> list[float]:
        """Return one advantage per outcome."""
        if self.leave_one_out:
            return decision.advantages
        bearing = first_wave if self.first_wave_only else len(outcomes)
        return [outcome - decision.baseline if place < bearing else 0.0 for place, outcome in enumerate(outcomes)]


@dataclass(slots=True)
class Group:
    """One group under way."""

    problem: Problem
    opened: OpenedGroup
    prompt_ids: tuple[int, ...]
    samples: list[Sample]
    outcomes: list[float]
    granted: int
    waves: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    longest_wait_s: float = 0.0
    decision: Decision | None = None
    failure: str = ""
    cancelled: int = 0

    def report(self) -> ObserveGroup:
        """Return all outcomes so far, as the allocator is told."""
        return ObserveGroup(group_id=self.opened.group_id, attempt=self.opened.attempt, outcomes=list(self.outcomes))

    def settlement(self) -> CloseGroup:
        """Return what the group used, as the allocator is told at its end."""
        return CloseGroup(
            group_id=self.opened.group_id,
            attempt=self.opened.attempt,
            used=len(self.samples),
            tokens=sum(len(sample.token_ids) for sample in self.samples),
            seconds=self.seconds,
            discard=not self.samples,
        )

    def finished(self, version: int, shape: Shape) -> RolloutGroup | None:
        """Return the group as the learner takes it; None where it has no samples or was never decided about.

        One whose later wave failed or was cancelled keeps what it had, with its last decision. `version` is that of the
        weights it was opened under.
        """
        if self.decision is None:
            return None
        return RolloutGroup(
            group_id=self.opened.group_id,
            problem=self.problem,
            prompt_ids=self.prompt_ids,
            samples=tuple(self.samples),
            outcomes=tuple(self.outcomes),
            advantages=tuple(shape.advantages(self.decision, self.outcomes, self.opened.grant)),
            baseline=self.decision.baseline,
            prior=self.opened.prior,
            first_wave=self.opened.grant,
            version=version,
            importance_weight=self.opened.importance_weight if shape.weighted else 1.0,
        )


def cost_of(groups: Sequence[Group], *, used: int, reference_group_size: int, notes: Sequence[str]) -> StepStats:
    """Return what groups cost, but for what only a clock and the counter of calls can tell."""
    drawn = [group for group in groups if group.samples]
    fallback = any(group.decision is not None and group.decision.reason == "local_fallback" for group in groups)
    failures = list(dict.fromkeys(group.failure for group in groups if group.failure))
    return StepStats(
        groups=len(drawn),
        refused=sum(group.opened.grant == 0 for group in groups),
        failed=sum(bool(group.failure) for group in groups),
        granted=sum(group.granted for group in groups),
        used=used,
        cancelled=sum(group.cancelled for group in groups),
        saved=reference_group_size * len(drawn) - used,
        extended=sum(group.waves > 1 for group in groups),
        waves=sum(group.waves for group in groups),
        tokens=sum(len(sample.token_ids) for group in groups for sample in group.samples),
        longest_wait_s=max((group.longest_wait_s for group in groups), default=0.0),
        degraded=bool(notes) or fallback,
        fallback=fallback,
        detail="; ".join([*notes, *failures]),
    )


def group_id(step: int, key: str) -> str:
    """Return the id of a problem's group in a step: the same whenever that step is run, so that a resumed run meets it."""
    plain = f"{step}-{key}"
    return plain if len(plain) <= MAX_ID_CHARS else f"{step}-{hashlib.sha256(key.encode()).hexdigest()}"


def wave_seed(seed: int, group: str, attempt: int, wave: int) -> int:
    """Return a wave's own seed, in [0, 2^62): servers count up from it for its samples, so waves must lie far apart.

    The attempt is part of it. A step that is drawn anew because its record is gone draws other samples, since the prior
    may have learned from the first ones: drawn again, they would meet a baseline that was fitted to their own outcomes.
    """
    digest = hashlib.sha256(f"{seed}/{group}/{attempt}/{wave}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2
