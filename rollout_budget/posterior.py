"""What is known of success rates after some outcomes: two moments of each, on the unit scale. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rollout_budget.outcomes import FloatArray


@dataclass(frozen=True, slots=True)
class Posterior:
    """Mean and variance of success rates, shape (n,) each, on the unit scale."""

    mean: FloatArray
    variance: FloatArray
    stated: FloatArray | None = None
    """`size` where it is known: at a mean of 0 or 1 it does not follow from the moments."""

    @property
    def size(self) -> FloatArray:
        """Pseudo-rollouts of the Beta law with this mean and variance, shape (n,), >= 0."""
        if self.stated is not None:
            return self.stated
        spread = self.mean * (1.0 - self.mean)
        return np.maximum(spread / np.maximum(self.variance, 1e-12) - 1.0, 0.0)

    def part(self, start: int, end: int) -> Posterior:
        """Return what is known of the rates from `start` to before `end`."""
        stated = None if self.stated is None else self.stated[start:end]
        return Posterior(self.mean[start:end], self.variance[start:end], stated)
