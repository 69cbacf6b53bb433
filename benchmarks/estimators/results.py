"""Figures of all methods on all priors over seeds, and how they are read at matched rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks.estimators.scores import NAMES
from rollout_budget.outcomes import FloatArray

TOLERANCE = 0.04
"""How far outside a curve's own range, in shares of rollouts, it is still read (at its end)."""

Case = tuple[str, str]
"""Family and prior."""
Point = tuple[str, str]
"""Curve and label."""


@dataclass(frozen=True, slots=True)
class Cold:
    """Ours against leave-one-out right after a cold start: sums of squared errors, {-1, +1} scale.

    Attributes:
        setting: what kind of run.
        k: size of all groups.
        ours: mean squared error of values and of sample baselines, shape (2, seeds).
        theirs: the same of leave-one-out.
    """

    setting: str
    k: int
    ours: FloatArray
    theirs: FloatArray


@dataclass(frozen=True, slots=True)
class Results:
    """All figures.

    Attributes:
        seeds: how many.
        own: squared error of each prior itself, by case, shape (seeds,), {-1, +1} scale.
        figures: by case and point, shape (seeds, figures) in the order of `NAMES`; NaN where a figure does not exist.
        cold: by case.
    """

    seeds: int
    own: dict[Case, FloatArray] = field(default_factory=dict)
    figures: dict[Case, dict[Point, FloatArray]] = field(default_factory=dict)
    cold: dict[Case, list[Cold]] = field(default_factory=dict)

    def note(self, case: Case, point: Point, seed: int, values: Mapping[str, float]) -> None:
        """Keep the figures of one seed."""
        rows = self.figures.setdefault(case, {}).setdefault(point, np.full((self.seeds, len(NAMES)), np.nan))
        rows[seed] = [values.get(name, np.nan) for name in NAMES]

    def curves(self, case: Case) -> list[str]:
        """Return the curves that have points, in order."""
        return list(dict.fromkeys(curve for curve, _ in self.figures[case]))

    def curve(self, case: Case, name: str, figure: str) -> tuple[FloatArray, FloatArray]:
        """Return rollouts and a figure of a curve's points in order of rollouts, each of shape (points, seeds)."""
        rows = [rows for (curve, _), rows in self.figures[case].items() if curve == name]
        if not rows:
            return np.empty((0, self.seeds)), np.empty((0, self.seeds))
        table = np.stack(rows)
        rollouts, values = table[:, :, NAMES.index("rollouts")], table[:, :, NAMES.index(figure)]
        order = np.argsort(rollouts.mean(axis=1), kind="stable")
        return rollouts[order], values[order]

    def at(self, case: Case, name: str, figure: str, rollouts: float) -> FloatArray:
        """Return a figure of a curve at a number of rollouts, by seed; NaN where the curve does not reach there.

        Between points it is linear, for errors on logarithmic axes.
        """
        where, values = self.curve(case, name, figure)
        if len(where) < 2:
            return np.full(self.seeds, np.nan)
        return np.array([interpolated(rollouts, *pair) for pair in zip(where.T, values.T, strict=True)])

    def rollouts_for(self, case: Case, name: str, error: FloatArray) -> FloatArray:
        """Return the rollouts at which a curve reaches a squared error, by seed; infinite where it never does."""
        where, values = self.curve(case, name, "error")
        if not len(where):
            return np.full(self.seeds, np.inf)
        return np.array([reached(*triple) for triple in zip(error, where.T, values.T, strict=True)])


def interpolated(at: float, where: FloatArray, values: FloatArray) -> float:
    """Return the value of a curve at a place, NaN outside of its range."""
    order = np.argsort(where, kind="stable")
    where, values = where[order], values[order]
    if not where[0] * (1 - TOLERANCE) <= at <= where[-1] * (1 + TOLERANCE):
        return float("nan")
    if (values > 0).all():
        return float(np.exp(np.interp(np.log(at), np.log(where), np.log(values))))
    return float(np.interp(np.log(at), np.log(where), values))


def reached(error: float, where: FloatArray, values: FloatArray) -> float:
    """Return the rollouts at which a curve first falls to `error`; its first ones if it starts below."""
    order = np.argsort(where, kind="stable")
    where, values = where[order], np.minimum.accumulate(values[order])
    if values[-1] > error:
        return float("inf")
    return float(np.exp(np.interp(-np.log(error), -np.log(values), np.log(where))))
