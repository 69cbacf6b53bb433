"""The three targets that ours is held to, with what was measured beside each; a miss is printed like a hit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.estimators.bounds import BAYES
from benchmarks.estimators.families import REAL
from benchmarks.estimators.methods import EMPIRICAL_BAYES, LOOK_AHEAD, OUR_CURVES, SIZES
from benchmarks.estimators.priors import REFERENCE_PRIORS
from benchmarks.estimators.results import Case, Results
from rollout_budget.outcomes import FloatArray

ROLLOUT_RATIO = 0.4
"""T1: rollouts of ours, as a share of the look-ahead's, for its error."""
BAYES_RATIO = 1.1
"""T2: squared error of ours as a multiple of the Bayes-optimal one, at equal rollouts."""
COLD_RATIO = 1.02
"""T3: squared error of ours as a multiple of leave-one-out's at the same k > 1, after a cold start."""
ALONE = "T3, k = 1"
"""The same for single rollouts, where leave-one-out has no sibling and falls back to V: not part of the target."""
BASELINES = ("value", "sample baseline")


@dataclass(frozen=True, slots=True)
class Check:
    """One figure that is held to a target."""

    target: str
    what: str
    measured: float
    spread: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the mean over seeds is within the limit."""
        return self.measured <= self.limit


def checks(results: Results) -> Iterator[Check]:
    """Yield every check of all three targets for which there are figures."""
    for prior in REFERENCE_PRIORS:
        if (REAL, prior) in results.figures:
            yield from _look_ahead(results, (REAL, prior))
    for prior in REFERENCE_PRIORS:
        if (REAL, prior) in results.figures:
            yield from _bayes(results, (REAL, prior))
    yield from cold(results)


def _look_ahead(results: Results, case: Case) -> Iterator[Check]:
    rollouts, errors = results.curve(case, LOOK_AHEAD, "error")
    if not len(errors):
        return
    ours = {curve: results.rollouts_for(case, curve, errors[0]) for curve in OUR_CURVES}
    best = min(ours, key=lambda curve: float(ours[curve].mean()))
    ratio = ours[best] / rollouts[0]
    each = ", ".join(f"{curve} {float((found / rollouts[0]).mean()):.2f}" for curve, found in ours.items())
    what = f"{case[1]}: {ours[best].mean():.1f} of {rollouts[0].mean():.1f} for {errors[0].mean():.3f} ({each})"
    yield Check("T1", what, float(ratio.mean()), _spread(ratio), ROLLOUT_RATIO)


def _bayes(results: Results, case: Case) -> Iterator[Check]:
    for k in SIZES:
        ours = results.figures[case].get((EMPIRICAL_BAYES, f"k = {k}"))
        best = results.figures[case].get((BAYES, f"k = {k}"))
        if ours is not None and best is not None:
            ratio = ours[:, 1] / best[:, 1]
            yield Check("T2", f"{case[1]}, k = {k}", float(ratio.mean()), _spread(ratio), BAYES_RATIO)


def cold(results: Results) -> Iterator[Check]:
    """Yield ours over leave-one-out for every case, kind of run, k, and kind of baseline."""
    for (family, prior), rows in results.cold.items():
        for row in rows:
            for kind, ours, theirs in zip(BASELINES, row.ours, row.theirs, strict=True):
                ratio = np.asarray(ours / theirs)
                what = f"{family}, {prior}, k = {row.k}, {kind}, {row.setting}"
                yield Check(
                    "T3" if row.k > 1 else ALONE, what, float(ours.mean() / theirs.mean()), _spread(ratio), COLD_RATIO
                )


def _spread(values: FloatArray) -> float:
    return float(values.std(ddof=1)) if values.size > 1 else 0.0
