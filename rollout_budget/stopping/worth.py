"""What further rollouts are worth, group by group: the answer of a stopping rule, solved by `allocation`.

A worth is a falling curve per group: the j-th further rollout, j = 1, 2, ..., is worth `marginal(j)`, in squared error
saved or in whatever a rule that is not priced orders rollouts by. Two shapes are enough for all rules: a closed form
(`Curve`) and a table (`Tabulated`). Pure and vectorised; unit scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from rollout_budget.groups import IntArray
from rollout_budget.outcomes import FloatArray

SMALLEST_WORTH = 1e-300
"""A rollout worth less counts as worth nothing: it keeps the closed form clear of overflow and of denormal numbers."""


class Worth(Protocol):
    """The worth of further rollouts of `G` groups; each curve falls, or stays, from rollout to rollout."""

    @property
    def most(self) -> IntArray:
        """Most further rollouts to ask for in the next wave, shape (G,), >= 0."""
        ...

    @property
    def priced(self) -> bool:
        """Whether the price decides; False where a rule asks for `most` whatever it costs."""
        ...

    @property
    def highest(self) -> float:
        """A bound that no rollout is worth more than; there is at least one group."""
        ...

    def marginal(self, number: IntArray) -> FloatArray:
        """Return the worth of the `number`-th further rollout of each group, `number` >= 1, shape (G,)."""
        ...

    def more_than(self, threshold: float, most: IntArray) -> IntArray:
        """Count the rollouts of each group worth more than `threshold` >= 0, at most `most`; those worth 0 never."""
        ...

    def beyond(self, held: IntArray) -> Worth:
        """Return the curves from where `held` further rollouts per group are drawn already."""
        ...

    def take(self, places: IntArray) -> Worth:
        """Return the curves of some groups."""
        ...


@dataclass(frozen=True, slots=True)
class Curve:
    """Curves in closed form: `worth(j) = scale / ((size + j - 1) (size + j))`.

    Attributes:
        scale: numerator of the curve, shape (G,), >= 0.
        size: effective size so far, shape (G,), > 0.
        most: see `Worth`.
        priced: see `Worth`.
    """

    scale: FloatArray
    size: FloatArray
    most: IntArray
    priced: bool = True

    @property
    def highest(self) -> float:
        """See `Worth`."""
        smallest = float(self.size.min())
        return float(self.scale.max()) / (smallest * (smallest + 1.0))

    def marginal(self, number: IntArray) -> FloatArray:
        """See `Worth`."""
        return np.divide(self.scale, (self.size + (number - 1.0)) * (self.size + number), dtype=np.float64)

    def more_than(self, threshold: float, most: IntArray) -> IntArray:
        """See `Worth`.

        `scale > threshold x (x + 1)` with `x = size + j - 1` is a quadratic in j. Its root may be off by one in
        floating point, so it is checked against the curve itself on both sides.
        """
        threshold = max(threshold, SMALLEST_WORTH)
        root = np.sqrt(0.25 + self.scale / threshold) - 0.5
        count = np.clip(np.ceil(root - self.size), 0, most).astype(np.int64)
        count += (count < most) & (self.marginal(count + 1) > threshold)
        count -= (count > 0) & (self.marginal(np.maximum(count, 1)) <= threshold)
        return count

    def beyond(self, held: IntArray) -> Curve:
        """See `Worth`."""
        return replace(self, size=self.size + held, most=np.maximum(self.most - held, 0))

    def take(self, places: IntArray) -> Curve:
        """See `Worth`."""
        return replace(self, scale=self.scale[places], size=self.size[places], most=self.most[places])


@dataclass(frozen=True, slots=True)
class Tabulated:
    """Curves by table, for worths without a closed form.

    Attributes:
        table: worth of each further rollout, shape (G, J), >= 0, rows falling or flat.
        most: see `Worth`; at most J.
        priced: see `Worth`.
    """

    table: FloatArray
    most: IntArray
    priced: bool = True

    @property
    def highest(self) -> float:
        """See `Worth`."""
        return float(self.table.max(initial=0.0))

    def marginal(self, number: IntArray) -> FloatArray:
        """See `Worth`; 0 past the end of the table."""
        columns = self.table.shape[1]
        if columns == 0:
            return np.zeros(self.table.shape[0])
        last = np.minimum(number, columns) - 1
        found = np.take_along_axis(self.table, np.broadcast_to(last, self.most.shape)[:, None], axis=1)[:, 0]
        return np.where(number <= columns, found, 0.0)

    def more_than(self, threshold: float, most: IntArray) -> IntArray:
        """See `Worth`."""
        count: IntArray = (self.table > max(threshold, SMALLEST_WORTH)).sum(axis=1, dtype=np.int64)
        return np.minimum(count, most)

    def beyond(self, held: IntArray) -> Tabulated:
        """See `Worth`."""
        columns = self.table.shape[1]
        places = held[:, None] + np.arange(columns)
        moved = np.take_along_axis(self.table, np.minimum(places, columns - 1), axis=1) if columns else self.table
        return replace(self, table=np.where(places < columns, moved, 0.0), most=np.maximum(self.most - held, 0))

    def take(self, places: IntArray) -> Tabulated:
        """See `Worth`."""
        return replace(self, table=self.table[places], most=self.most[places])
