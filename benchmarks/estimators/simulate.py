"""One method on one prior: groups of real prompts drawn in batches, outcomes from the truth, D and S learned online.

The order of a batch is that of a run: first wave and further waves decided by what was learned before the batch, then
the first waves enter the run's reliability.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rollout_budget.decisions import PAPER_RANGE, Rules, first_wave, next_wave
from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import Reliability


@dataclass(frozen=True, slots=True)
class Length:
    """How long a simulation is: batches of `size` groups, of which the first `warm_up` do not count.

    Every group has `rollouts` outcomes ready before anything is decided, so that with equal seeds all methods meet the
    same prompts with the same outcomes.
    """

    batches: int = 60
    size: int = 128
    warm_up: int = 10
    rollouts: int = 16


@dataclass(frozen=True, slots=True)
class Figure:
    """Mean squared error of the fused value on the {-1, +1} scale, and mean rollouts per group."""

    error: float
    rollouts: float


def run(rules: Rules, prior: FloatArray, truth: FloatArray, rng: np.random.Generator, length: Length) -> Figure:
    """Return the figure of one method for targets with these priors and true rates."""
    reliability = Reliability()
    errors, rollouts = [], []
    for batch in range(length.batches):
        chosen = rng.choice(truth.size, min(length.size, truth.size), replace=False)
        outcomes = (rng.random((chosen.size, length.rollouts)) < truth[chosen, None]).astype(np.float64)
        unseen = _drawn(prior[chosen], outcomes, np.zeros(chosen.size, dtype=np.int64))
        first = first_wave(rules, unseen, reliability).wanted
        groups, value = _to_the_end(rules, reliability, prior[chosen], outcomes, first)
        if batch >= length.warm_up:
            errors.append(np.mean((value - truth[chosen]) ** 2))
            rollouts.append(groups.sizes.mean())
        reliability = reliability.update(_drawn(prior[chosen], outcomes, first))
    return Figure(PAPER_RANGE.squared_from_unit(float(np.mean(errors))), float(np.mean(rollouts)))


def _to_the_end(
    rules: Rules, reliability: Reliability, prior: FloatArray, outcomes: FloatArray, first: IntArray
) -> tuple[Groups, FloatArray]:
    """Draw wave after wave until every group stops; return the groups and their fused values."""
    sizes = first.copy()
    while True:
        groups = _drawn(prior, outcomes, sizes)
        plan = next_wave(rules, groups, reliability)
        if not plan.wanted.any():
            return groups, plan.baselines.value
        sizes = sizes + plan.wanted


def _drawn(prior: FloatArray, outcomes: FloatArray, sizes: IntArray) -> Groups:
    """Return the first `sizes` outcomes of each row of `outcomes` as groups."""
    taken = np.arange(outcomes.shape[1]) < sizes[:, None]
    return Groups(prior, np.full(prior.shape, np.nan), sizes, outcomes[taken])
