"""Outcome ranges: the one place where the caller's scale and the unit scale meet.

Inside the core every outcome, prior and baseline lies on the unit scale, [0, 1]. What enters or leaves the core is on
the caller's declared scale `{low, high}`: {-1, +1} in the papers, {0, 1} in most trainers. Values map linearly, squared
errors and prices with the square of the width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout_budget.errors import InvalidInput

FloatArray = NDArray[np.float64]

MIN_WIDTH, MAX_WIDTH = 1e-100, 1e100
"""Widths of a range: errors and prices go with their square, which must stay far from the ends of a double."""


@dataclass(frozen=True, slots=True)
class OutcomeRange:
    """A finite interval `[low, high]`, `low < high`, in which every outcome of a run lies.

    Raises:
        InvalidInput: a bound is not finite, `low >= high`, or the width is beyond `MIN_WIDTH` and `MAX_WIDTH`.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InvalidInput(f"outcome range needs finite low < high, got low={self.low}, high={self.high}")
        if not MIN_WIDTH <= self.high - self.low <= MAX_WIDTH:
            raise InvalidInput(f"outcome range [{self.low}, {self.high}] is wider or narrower than doubles can square")

    @property
    def width(self) -> float:
        """`high - low`, in the caller's units."""
        return self.high - self.low

    def to_unit(self, values: ArrayLike) -> FloatArray:
        """Map outcomes of any shape from the caller's scale to [0, 1].

        Raises:
            InvalidInput: a value is not finite or lies outside the range.
        """
        array = np.asarray(values, dtype=np.float64)
        outside = ~((array >= self.low) & (array <= self.high))
        if outside.any():
            raise InvalidInput(f"{array[outside].flat[0]} lies outside the outcome range [{self.low}, {self.high}]")
        return np.clip((array - self.low) / self.width, 0.0, 1.0)

    def from_unit(self, values: ArrayLike) -> FloatArray:
        """Map values of any shape from [0, 1] to the caller's scale; rounding never leads out of the range."""
        return np.clip(np.asarray(values, dtype=np.float64) * self.width + self.low, self.low, self.high)

    def squared_to_unit(self, value: float) -> float:
        """Map a squared error or price from the caller's scale to the unit scale: divide by `width ** 2`."""
        return value / self.width**2

    def squared_from_unit(self, value: float) -> float:
        """Map a squared error or price from the unit scale to the caller's scale: multiply by `width ** 2`."""
        return value * self.width**2


UNIT = OutcomeRange(0.0, 1.0)
