"""Curves, ends and crossings, with bootstrap intervals over seeds. Pure arithmetic on results.

A curve is smoothed by the mean of each measurement with the two before it, for every method alike, so that a lucky one does not
count as having arrived. Curves of seeds are averaged at common numbers of rollouts. A method reaches a level where its
average curve first does. The reference's level is the mean of the last four measurements of its runs.

Intervals: seeds are drawn again, the same ones for method and reference, and both the level and the crossing are computed
anew. A method that does not reach the level in a draw counts as infinitely late in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.learning.results import Measured, Result
from rollout_budget.outcomes import FloatArray

WINDOW = 3
"""Measurements in a smoothed one: its standard error is .016 instead of .028."""
LAST = 4
"""Measurements in a final accuracy: the last fifth of a run."""
PLACES = 201
"""Points at which average curves are computed."""
DRAWS = 2000
"""Bootstrap samples."""
LEVEL = 0.95
"""Of the intervals."""

Axis = Callable[[Measured], float]


def final(result: Result) -> float:
    """Return the mean of a run's last measurements of held-out accuracy."""
    values = [point.accuracy for point in result.curve[-LAST:]]
    return sum(values) / len(values)


def mean(result: Result) -> float:
    """Return the mean of held-out accuracy over a run's measurements, the first left out: high for a method that is fast."""
    values = [point.accuracy for point in result.curve[1:]]
    return sum(values) / len(values)


def smoothed(result: Result, axis: Axis) -> tuple[FloatArray, FloatArray]:
    """Return a run's curve against an axis, both of shape (measurements,)."""
    values = np.array([point.accuracy for point in result.curve])
    means = [values[max(0, place - WINDOW + 1) : place + 1].mean() for place in range(len(values))]
    return np.array([axis(point) for point in result.curve], dtype=np.float64), np.array(means)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its bootstrap interval; infinity stands for "never"."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Family:
    """The runs of one method on one task and pool: curves of its seeds at common places, shape (seeds, places)."""

    seeds: tuple[int, ...]
    across: FloatArray
    curves: FloatArray
    finals: FloatArray

    @classmethod
    def of(cls, runs: Sequence[Result], longest: float) -> Family:
        """Bring runs onto `PLACES` numbers of rollouts from 0 to `longest`; beyond its end a run stays as it was."""
        ordered = sorted(runs, key=lambda run: run.seed)
        across = np.linspace(0.0, longest, PLACES)
        curves = [np.interp(across, *smoothed(run, lambda point: point.rollouts)) for run in ordered]
        return cls(
            tuple(run.seed for run in ordered), across, np.array(curves), np.array([final(run) for run in ordered])
        )


def crossing(across: FloatArray, curve: FloatArray, level: float) -> float:
    """Return where a curve first reaches a level, between places by a straight line; infinity if it never does."""
    reached = np.flatnonzero(curve >= level)
    if not reached.size:
        return math.inf
    at = int(reached[0])
    if at == 0:
        return float(across[0])
    share = (level - curve[at - 1]) / (curve[at] - curve[at - 1])
    return float(across[at - 1] + share * (across[at] - across[at - 1]))


def share_to_reach(method: Family, reference: Family, *, seed: int = 0) -> Interval:
    """Return the share of the reference's rollouts after which a method has the reference's final accuracy."""
    common = [place for place, run in enumerate(method.seeds) if run in reference.seeds]
    paired = [reference.seeds.index(method.seeds[place]) for place in common]
    curves, finals = method.curves[common], reference.finals[paired]
    longest = reference.across[-1]

    def share(draw: FloatArray) -> float:
        return crossing(method.across, draw @ curves, float(draw @ finals)) / float(longest)

    equal = np.full(len(common), 1.0 / len(common))
    return _interval(share(equal), [share(draw) for draw in _draws(len(common), seed)])


def mean_final(family: Family, *, seed: int = 0) -> Interval:
    """Return the mean final accuracy."""
    ends = family.finals
    return _interval(float(ends.mean()), [float(draw @ ends) for draw in _draws(len(ends), seed)])


def gain(method: Family, reference: Family, *, seed: int = 0) -> Interval:
    """Return the mean difference of final accuracies, seeds paired."""
    common = [place for place, run in enumerate(method.seeds) if run in reference.seeds]
    differences = method.finals[common] - reference.finals[[reference.seeds.index(method.seeds[at]) for at in common]]
    return _interval(float(differences.mean()), [float(draw @ differences) for draw in _draws(len(common), seed)])


def families(results: Sequence[Result], longest: float) -> Mapping[str, Family]:
    """Gather the results of one task and pool by method."""
    names = dict.fromkeys(result.method for result in results)
    return {name: Family.of([result for result in results if result.method == name], longest) for name in names}


def _draws(count: int, seed: int) -> list[FloatArray]:
    """Return weights of bootstrap samples of `count` seeds, each of sum 1; the same for the same count."""
    rng = np.random.default_rng(seed)
    return list(rng.multinomial(count, np.full(count, 1.0 / count), size=DRAWS) / count)


def _interval(value: float, values: Sequence[float]) -> Interval:
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(np.array(values), [tail, 1 - tail], method="inverted_cdf")
    return Interval(value, float(low), float(high))
