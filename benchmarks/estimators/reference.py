"""Figures to reproduce: measured once on the same outcomes before this code was written.

By prior and curve, pairs of (mean rollouts, squared error on the {-1, +1} scale), as published in the project's method
notes; the mean of a group does not depend on the prior. The curves called "one strength" are the first version of
ours, kept as a variant. How large the waves of its stop were is not recorded; ours are whole ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.estimators.families import REAL
from benchmarks.estimators.results import Results
from rollout_budget.outcomes import FloatArray

Points = tuple[tuple[float, float], ...]

ROUNDING = 0.0005
"""Half of the last digit of a reference figure."""
NEAR = 2.0
"""Spreads of one run within which a figure counts as reproduced."""

_MEANS: Points = ((2, 0.249), (4, 0.126), (8, 0.064), (16, 0.032))
_FIXED = "one strength"
_STOP = "one strength, stop by wave, k_init 2"

OWN_ERROR: Mapping[str, float] = {
    "gp": 0.373,
    "truth + N(0, .15)": 0.067,
    "truth + N(0, .25)": 0.170,
    "constant": 0.472,
}
"""Squared error of each prior itself."""

REFERENCE: Mapping[str, Mapping[str, Points]] = {
    "gp": {
        "group mean": _MEANS,
        "V0.5 fusion": ((2, 0.190), (4, 0.128), (8, 0.076)),
        "V0.5 look-ahead": ((8.0, 0.111),),
        _FIXED: ((1, 0.221), (2, 0.147), (4, 0.094), (8, 0.054)),
        _STOP: ((3.7, 0.092), (5.6, 0.067), (9.5, 0.041), (12.4, 0.033)),
    },
    "truth + N(0, .15)": {
        "group mean": _MEANS,
        "V0.5 fusion": ((2, 0.097), (4, 0.069), (8, 0.047)),
        "V0.5 look-ahead": ((4.8, 0.051),),
        _FIXED: ((1, 0.084), (2, 0.053), (4, 0.043), (8, 0.033)),
        _STOP: ((2.0, 0.053), (3.9, 0.043), (7.5, 0.033)),
    },
    "truth + N(0, .25)": {
        "group mean": _MEANS,
        "V0.5 fusion": ((2, 0.142), (4, 0.102), (8, 0.065)),
        "V0.5 look-ahead": ((5.8, 0.086),),
        _FIXED: ((1, 0.131), (2, 0.101), (4, 0.074), (8, 0.047)),
        _STOP: ((2.5, 0.090), (3.9, 0.073), (7.0, 0.054), (9.8, 0.044)),
    },
    "constant": {
        "group mean": _MEANS,
        "V0.5 fusion": ((2, 0.186), (4, 0.136), (8, 0.076)),
        "V0.5 look-ahead": ((9.9, 0.106),),
        _FIXED: ((1, 0.265), (2, 0.161), (4, 0.099), (8, 0.056)),
        _STOP: ((4.0, 0.094), (6.0, 0.067), (10.0, 0.041)),
    },
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One reference figure and ours at the same number of rollouts."""

    prior: str
    curve: str
    rollouts: float
    ours: FloatArray
    reference: float

    @property
    def spread(self) -> float:
        """Standard deviation over seeds: what one run, as the reference is, scatters by."""
        return float(self.ours.std(ddof=1)) if self.ours.size > 1 else 0.0

    @property
    def deviations(self) -> float:
        """Distance from the reference in standard deviations of one run, its rounding allowed for."""
        distance = max(abs(float(self.ours.mean()) - self.reference) - ROUNDING, 0.0)
        return distance / self.spread if self.spread else 0.0


def comparisons(results: Results) -> Iterator[Comparison]:
    """Yield every reference figure with ours, for the priors that were run."""
    for prior, curves in REFERENCE.items():
        case = (REAL, prior)
        if case not in results.figures:
            continue
        yield Comparison(prior, "the prior itself", 0, results.own[case], OWN_ERROR[prior])
        for curve, points in curves.items():
            rollouts, errors = results.curve(case, curve, "error")
            for at, reference in points:
                if len(rollouts) == 1:
                    yield Comparison(prior, curve, float(rollouts.mean()), errors[0], reference)
                else:
                    yield Comparison(prior, curve, at, results.at(case, curve, "error", at), reference)


def table(results: Results) -> str:
    """Return the comparison as a Markdown table, with how many figures were reproduced."""
    rows = list(comparisons(results))
    lines = [
        "| prior | method | rollouts | here (± one run) | reference | apart, in spreads of one run |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        at = f"{row.rollouts:.1f}" if row.rollouts else ""
        here = f"{np.mean(row.ours):.3f} ± {row.spread:.3f}"
        lines.append(f"| {row.prior} | {row.curve} | {at} | {here} | {row.reference:.3f} | {row.deviations:.1f} |")
    near = sum(row.deviations <= NEAR for row in rows)
    return "\n".join([*lines, "", f"{near} of {len(rows)} figures within {NEAR:.0f} spreads of one run."])
