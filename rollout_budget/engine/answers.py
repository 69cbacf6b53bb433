"""From the core's arrays on the unit scale to answers on the caller's scale. Pure.

A sample's place in its group is its place in the list that was sent; where only the first wave carries advantages, its
samples are the first ones sent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import TypeAdapter

from rollout_budget.baselines.base import BoolArray
from rollout_budget.decisions import Plan, Rules
from rollout_budget.engine.records import RunRecord
from rollout_budget.errors import InvalidInput
from rollout_budget.groups import Groups
from rollout_budget.outcomes import FloatArray, OutcomeRange
from rollout_budget.reliability import Reliability
from rollout_budget.wire import Decision, PriorQuality, Reason, RolloutCounts, Run

_DECISIONS = TypeAdapter(list[Decision])
"""Makes all decisions of a batch in one call: one by one they take longer to make than to reach."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a caller sent of one group, on its own scale: `rewards` are the outcomes where none were sent apart."""

    group_id: str
    outcomes: Sequence[float]
    rewards: Sequence[float]

    @classmethod
    def of(cls, group_id: str, outcomes: Sequence[float], rewards: Sequence[float] | None) -> Sent:
        """Return the same with rewards filled in."""
        return cls(group_id, outcomes, outcomes if rewards is None else rewards)


def to_unit(
    outcome_range: OutcomeRange, names: Sequence[str], groups: Sequence[Sequence[float]]
) -> list[tuple[float, ...]]:
    """Map all outcomes of a batch to the unit scale at once.

    Raises:
        InvalidInput: one lies outside the range; the message names its group, by `names`.
    """
    try:
        flat = outcome_range.to_unit([value for group in groups for value in group]).tolist()
    except InvalidInput:
        for name, group in zip(names, groups, strict=True):
            value_to_unit(outcome_range, f"group {name!r}: outcome", group)
        raise
    ends = np.cumsum([len(group) for group in groups]).tolist()
    return [tuple(flat[end - len(group) : end]) for group, end in zip(groups, ends, strict=True)]


def value_to_unit(outcome_range: OutcomeRange, what: str, value: ArrayLike) -> FloatArray:
    """Map a value, or several, to the unit scale.

    Raises:
        InvalidInput: it lies outside the range; the message says `what` does.
    """
    try:
        return outcome_range.to_unit(value)
    except InvalidInput as error:
        raise InvalidInput(f"{what} {error}") from None


def decisions(
    outcome_range: OutcomeRange,
    sent: Sequence[Sent],
    groups: Groups,
    plan: Plan,
    *,
    per_sample: FloatArray,
    counted: BoolArray,
    more: Sequence[int],
    reasons: Sequence[Reason],
) -> list[Decision]:
    """Return one decision per group.

    Args:
        outcome_range: the caller's scale.
        sent: what the caller sent, as in `groups`.
        groups: the same on the unit scale, with priors.
        plan: what the core made of them.
        per_sample: what is subtracted from each sample, unit scale, shape (N,).
        counted: whether a sample carries an advantage; it is 0 for the others; shape (N,).
        more: further rollouts held for each group.
        reasons: why no more or no fewer.
    """
    found = plan.baselines
    subtracted = outcome_range.from_unit(per_sample)
    rewards = np.array([value for group in sent for value in group.rewards], dtype=np.float64)
    advantages = np.where(counted, rewards - subtracted, 0.0)
    columns = {
        "group_id": [group.group_id for group in sent],
        "action": ["more" if further else "stop" for further in more],
        "more": more,
        "reason": reasons,
        "baseline": outcome_range.from_unit(found.value).tolist(),
        "weight": found.weight.tolist(),
        "trusted": found.trusted.tolist(),
        "ingredients": _rows(
            prior=outcome_range.from_unit(groups.prior).tolist(),
            mean=_known(outcome_range.from_unit(groups.means)),
            k=groups.sizes.tolist(),
            strength=found.strength.tolist(),
            standard_error=_known(found.standard_error * outcome_range.width),
        ),
        "baselines": groups.split(subtracted),
        "advantages": groups.split(advantages),
    }
    return _DECISIONS.validate_python(_rows(**columns))


def repeated(decision: Decision, before: Sequence[float], now: Sequence[float], sent: Sent, counted: int) -> Decision:
    """Return a decision again for the same outcomes, perhaps in another order.

    Among the first `counted` samples, which carry advantages, and among the rest, a sample's baseline depends on its
    own outcome alone, so it moves with it.
    """
    of_sample = [0.0] * len(now)
    for start, end in ((0, counted), (counted, len(now))):
        for old, new in zip(_order(before, start, end), _order(now, start, end), strict=True):
            of_sample[new] = decision.baselines[old]
    gains = [
        reward - baseline if place < counted else 0.0
        for place, (reward, baseline) in enumerate(zip(sent.rewards, of_sample, strict=True))
    ]
    return decision.model_copy(update={"baselines": of_sample, "advantages": gains})


def run_answer(record: RunRecord, usage: RolloutCounts) -> Run:
    """Return a run as its owner sees it."""
    outcome_range = record.spec.outcome_range.core()
    return Run(
        spec=record.spec,
        status="finished" if record.finished else "running",
        usage=usage,
        prior=prior_quality(record.reliability, outcome_range),
        price=price_in_force(record),
    )


def price_in_force(record: RunRecord) -> float:
    """Return the price that holds now, on the outcome scale: set by hand, paced, or the stopping rule's own."""
    return record.spec.outcome_range.core().squared_from_unit(Rules.of(record.in_force).price)


def prior_quality(learned: Reliability, outcome_range: OutcomeRange) -> PriorQuality:
    """Return what was learned of a prior, squared figures on the caller's scale."""
    brier = learned.brier
    calibration = learned.calibration_error
    return PriorQuality(
        groups=learned.groups,
        squared_prior_error=outcome_range.squared_from_unit(learned.squared_prior_error),
        within_variance=outcome_range.squared_from_unit(learned.within_variance),
        strength=learned.strength,
        explained_variance=learned.explained_variance,
        brier=None if brier is None else outcome_range.squared_from_unit(brier),
        calibration_error=None if calibration is None else calibration * outcome_range.width,
        rejected_share=learned.rejected_share,
    )


def groups_of(priors: Sequence[float], errors: Sequence[float | None], outcomes: Sequence[Sequence[float]]) -> Groups:
    """Return groups on the unit scale; an unknown standard error is None."""
    known: FloatArray = np.array([math.nan if error is None else error for error in errors], dtype=np.float64)
    return Groups.of(priors, outcomes, prior_errors=known)


def _known(values: FloatArray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _rows(**columns: Sequence[Any]) -> list[dict[str, Any]]:
    """Return columns of equal length as rows."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _order(values: Sequence[float], start: int, end: int) -> list[int]:
    return sorted(range(min(start, len(values)), min(end, len(values))), key=values.__getitem__)
