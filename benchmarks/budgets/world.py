"""Runs of many steps: prompts with true rates, priors and outcomes, as demand stays, falls, rises or jumps.

Every way to spend a budget meets the same groups with the same outcomes. Truths are the arena's (`benchmarks.estimators`),
real or of a stated law. Unit scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.estimators.families import Family
from benchmarks.estimators.stream import MOST_ROLLOUTS
from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray

NOISE = 0.25
"""Standard deviation of a prior around the truth, where it stays the same."""
NOISES = (0.4, 0.05)
"""The same at the start and at the end of a run whose prior gets better; the other way round where it gets worse."""
LOG_ODDS = 3.0
"""What a policy that learns gains over a run, on every prompt."""
UNEVEN = (0.25, 1.75)
"""Smallest and largest step, as a multiple of the mean, where steps differ."""


@dataclass(frozen=True, slots=True)
class Run:
    """`T` groups in `steps` parts: `ends` of each part, shape (steps,); outcomes of shape (T, `MOST_ROLLOUTS`)."""

    ends: IntArray
    truth: FloatArray
    prior: FloatArray
    outcomes: FloatArray

    def part(self, step: int) -> slice:
        """Return where the groups of a step lie."""
        return slice(int(self.ends[step - 1]) if step else 0, int(self.ends[step]))

    def drawn(self, part: slice, sizes: IntArray) -> Groups:
        """Return the groups of a step with their first `sizes` outcomes."""
        taken = np.arange(MOST_ROLLOUTS) < sizes[:, None]
        prior = self.prior[part]
        return Groups(prior, np.full(prior.shape, np.nan), sizes, self.outcomes[part][taken])


@dataclass(frozen=True, slots=True)
class Regime:
    """How a run changes from its start (0) to its end (1)."""

    noise: Callable[[FloatArray], FloatArray] = lambda time: np.full(time.shape, NOISE)
    log_odds: Callable[[FloatArray], FloatArray] = np.zeros_like
    uneven: bool = False


REGIMES: Mapping[str, Regime] = {
    "stationary": Regime(),
    "steps of unequal size": Regime(uneven=True),
    "prior gets better": Regime(noise=lambda time: np.interp(time, (0.0, 1.0), NOISES)),
    "prior gets worse": Regime(noise=lambda time: np.interp(time, (0.0, 1.0), NOISES[::-1])),
    "prior breaks halfway": Regime(noise=lambda time: np.where(time < 0.5, *NOISES[::-1])),
    "policy learns": Regime(log_odds=lambda time: LOG_ODDS * time),
}


def draw(family: Family, regime: Regime, rng: np.random.Generator, steps: int, size: int) -> Run:
    """Return a run of `steps` steps of `size` groups, on average where steps differ."""
    sizes = np.full(steps, size)
    if regime.uneven:
        sizes = np.rint(rng.uniform(*UNEVEN, steps) * size).astype(np.int64)
    ends = np.cumsum(np.maximum(sizes, 1))
    time = np.repeat(np.linspace(0.0, 1.0, steps), np.diff(ends, prepend=0))
    truth = np.clip(rng.choice(family.truth, time.size), 1e-6, 1.0 - 1e-6)
    truth = 1.0 / (1.0 + (1.0 / truth - 1.0) * np.exp(-regime.log_odds(time)))
    prior = np.clip(truth + rng.normal(0.0, 1.0, time.size) * regime.noise(time), 0.0, 1.0)
    outcomes = (rng.random((time.size, MOST_ROLLOUTS)) < truth[:, None]).astype(np.float64)
    return Run(ends, truth, prior, outcomes)
