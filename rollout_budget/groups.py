"""Groups of unequal size as flat arrays: the input of every estimator and every rule.

Owns the ragged layout and the per-group sums; owns no statistics beyond them. One group is one prompt at one policy
version: a prior `V` and `k >= 0` outcomes, all on the unit scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout_budget.errors import InvalidInput
from rollout_budget.outcomes import UNIT, FloatArray, OutcomeRange

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """`G` groups with `N` outcomes in all, on the unit scale.

    Attributes:
        prior: predicted mean outcome of each group, shape (G,), in [0, 1].
        prior_error: standard error of that prediction, shape (G,), >= 0; NaN where it is not known.
        sizes: outcomes in each group, shape (G,), >= 0, summing to N.
        outcomes: all outcomes, group after group, shape (N,), in [0, 1].
    """

    prior: FloatArray
    prior_error: FloatArray
    sizes: IntArray
    outcomes: FloatArray

    def __post_init__(self) -> None:
        if not (self.prior.shape == self.prior_error.shape == self.sizes.shape == (self.sizes.size,)):
            raise InvalidInput("prior, prior_error and sizes need one entry per group")
        if (self.sizes < 0).any() or int(self.sizes.sum()) != self.outcomes.size:
            raise InvalidInput("sizes must be >= 0 and sum to the number of outcomes")
        for name, array in (("prior", self.prior), ("outcome", self.outcomes)):
            if not ((array >= 0.0) & (array <= 1.0)).all():
                raise InvalidInput(f"a {name} lies outside [0, 1] on the unit scale")

    @classmethod
    def of(
        cls,
        priors: ArrayLike,
        outcomes: Sequence[Sequence[float]],
        *,
        prior_errors: ArrayLike | None = None,
        outcome_range: OutcomeRange = UNIT,
    ) -> Groups:
        """Build groups from nested lists on the caller's scale.

        Raises:
            InvalidInput: lengths differ, or a value is not finite or lies outside `outcome_range`.
        """
        prior = np.atleast_1d(outcome_range.to_unit(priors))
        errors = np.full(prior.shape, np.nan) if prior_errors is None else np.asarray(prior_errors, dtype=np.float64)
        if len(outcomes) != prior.size:
            raise InvalidInput(f"{prior.size} priors but {len(outcomes)} groups of outcomes")
        flat = [value for group in outcomes for value in group]
        return cls(
            prior=prior,
            prior_error=errors if prior_errors is None else errors / outcome_range.width,
            sizes=np.array([len(group) for group in outcomes], dtype=np.int64),
            outcomes=outcome_range.to_unit(np.array(flat, dtype=np.float64)),
        )

    def __len__(self) -> int:
        return int(self.sizes.size)

    @cached_property
    def owner(self) -> IntArray:
        """Group index of each outcome, shape (N,)."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.sizes)

    @cached_property
    def sums(self) -> FloatArray:
        """Sum of outcomes of each group, shape (G,)."""
        return np.bincount(self.owner, weights=self.outcomes, minlength=len(self)).astype(np.float64)

    @cached_property
    def means(self) -> FloatArray:
        """Mean outcome of each group, shape (G,); NaN where it has none."""
        means = np.full(len(self), np.nan)
        np.divide(self.sums, self.sizes, out=means, where=self.sizes > 0)
        return means

    @cached_property
    def sample_variances(self) -> FloatArray:
        """Unbiased variance of each group's outcomes, shape (G,); NaN where k < 2."""
        deviations = self.outcomes - self.means[self.owner]
        squares = np.bincount(self.owner, weights=deviations**2, minlength=len(self))
        variances = np.full(len(self), np.nan)
        np.divide(squares, self.sizes - 1, out=variances, where=self.sizes > 1)
        return variances

    @cached_property
    def uniform(self) -> NDArray[np.bool_]:
        """Whether all outcomes of a group are equal, shape (G,); true where it has none."""
        low, high = np.full(len(self), np.inf), np.full(len(self), -np.inf)
        np.minimum.at(low, self.owner, self.outcomes)
        np.maximum.at(high, self.owner, self.outcomes)
        return low >= high

    def split(self, per_sample: FloatArray) -> list[list[float]]:
        """Cut a flat array of shape (N,) into one list per group."""
        flat, ends = per_sample.tolist(), np.cumsum(self.sizes).tolist()
        return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
