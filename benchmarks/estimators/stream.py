"""What all methods meet within one seed: the same prompts in the same order with the same outcomes.

A run is a sequence of batches. Every group has its outcomes ready before anything is decided, as many as the largest
group may have; a method draws the first of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.estimators.families import Family
from benchmarks.estimators.priors import Prior
from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray

MOST_ROLLOUTS = 16
"""Largest group, as in the V0.5 paper."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is: batches of `size` groups, of which the first `warm_up` do not count."""

    batches: int = 60
    size: int = 128
    warm_up: int = 10


@dataclass(frozen=True)
class Stream:
    """`T` groups of one family and prior, batch after batch.

    Attributes:
        length: how they are batched.
        target: which of the family's targets each group is, shape (T,).
        stage: stage of the prior at each group, shape (T,).
        truth: shape (T,).
        prior: shape (T,).
        prior_error: shape (T,).
        outcomes: shape (T, `MOST_ROLLOUTS`), 0 or 1.
    """

    length: Length
    target: IntArray
    stage: IntArray
    truth: FloatArray
    prior: FloatArray
    prior_error: FloatArray
    outcomes: FloatArray

    @classmethod
    def of(cls, family: Family, prior: Prior, rng: np.random.Generator, length: Length) -> Stream:
        """Draw a run; with equal `rng` the prompts and outcomes are the same whatever the prior."""
        size = min(length.size, family.truth.size)
        target = np.concatenate(
            [rng.choice(family.truth.size, size, replace=False) for _ in range(length.batches)]
        ).astype(np.int64)
        truth = family.truth[target]
        outcomes = (rng.random((target.size, MOST_ROLLOUTS)) < truth[:, None]).astype(np.float64)
        stages = prior.values.shape[0]
        stage = np.repeat(np.arange(length.batches) * stages // length.batches, size)
        return cls(
            Length(length.batches, size, length.warm_up),
            target,
            stage,
            truth,
            prior.values[stage, target],
            prior.errors[target],
            outcomes,
        )

    @property
    def counted(self) -> slice:
        """The groups after the warm-up."""
        return slice(self.length.warm_up * self.length.size, None)

    def batch(self, index: int) -> slice:
        """Return where one batch lies."""
        return slice(index * self.length.size, (index + 1) * self.length.size)

    def drawn(self, part: slice, sizes: IntArray) -> Groups:
        """Return the groups of `part` with their first `sizes` outcomes each."""
        taken = np.arange(MOST_ROLLOUTS) < sizes[:, None]
        return Groups(self.prior[part], self.prior_error[part], sizes, self.outcomes[part][taken])
