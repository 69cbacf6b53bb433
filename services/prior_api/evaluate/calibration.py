"""Whether values mean what they say: mean rate against mean value, in ten bins of equal width. Pure sums."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rollout_budget.outcomes import FloatArray

BINS = 10
"""As in the service's own figures: tenths of [0, 1]."""


@dataclass(frozen=True, slots=True)
class Bins:
    """Sums over predictions by tenth of the value; every array of shape (BINS,)."""

    rows: FloatArray
    values: FloatArray
    rates: FloatArray
    squared_rates: FloatArray

    @classmethod
    def of(cls, values: FloatArray, rates: FloatArray) -> Bins:
        """Sort n values and the rates that followed, both of shape (n,), into bins."""
        places = np.minimum((values * BINS).astype(int), BINS - 1)
        rows, sums, hits, squares = (
            np.bincount(places, weights, BINS).astype(np.float64)
            for weights in (np.ones_like(values), values, rates, np.square(rates))
        )
        return cls(rows, sums, hits, squares)

    @classmethod
    def total(cls, parts: Iterable[Bins]) -> Bins:
        """Add bins up."""
        several = list(parts)
        return cls(
            *(
                np.sum([getattr(one, name) for one in several], axis=0)
                for name in ("rows", "values", "rates", "squared_rates")
            )
        )

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of a bin's mean rate from its mean value, weighted by rows."""
        return float(np.abs(self.values - self.rates).sum() / self.rows.sum())

    @property
    def chance(self) -> float:
        """What that error would be, about, if every bin's mean value were right: rates scatter, and bins are small."""
        used = self.rows > 0
        rows = self.rows[used]
        variance = np.maximum(self.squared_rates[used] / rows - np.square(self.rates[used] / rows), 0.0)
        return float((np.sqrt(variance * rows) * math.sqrt(2 / math.pi)).sum() / rows.sum())

    def curve(self) -> list[tuple[float, float, int]]:
        """Return mean value, mean rate and rows of every bin that has any."""
        return [
            (float(value / rows), float(rate / rows), int(rows))
            for value, rate, rows in zip(self.values, self.rates, self.rows, strict=True)
            if rows
        ]
