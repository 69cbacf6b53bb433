"""Figures of many seeds as one table beside the reference, one table of all points, and one plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt

from benchmarks.estimators.methods import Method
from benchmarks.estimators.reference import OWN_ERROR, REFERENCE, Points
from rollout_budget.outcomes import FloatArray

ROUNDING = 0.0005
"""Half of the last digit of a reference figure."""


@dataclass(frozen=True, slots=True)
class Results:
    """All figures.

    Attributes:
        methods: what was run, M entries.
        own: squared error of each prior itself by seed, shape (seeds,).
        errors: by prior, shape (M, seeds), on the {-1, +1} scale.
        rollouts: by prior, shape (M, seeds).
    """

    methods: tuple[Method, ...]
    own: Mapping[str, FloatArray]
    errors: Mapping[str, FloatArray]
    rollouts: Mapping[str, FloatArray]

    def curve(self, prior: str, name: str) -> tuple[FloatArray, FloatArray]:
        """Return rollouts and errors of one curve's points in order of rollouts, each of shape (points, seeds)."""
        places = [place for place, method in enumerate(self.methods) if method.curve == name]
        rollouts, errors = self.rollouts[prior][places], self.errors[prior][places]
        order = np.argsort(rollouts.mean(axis=1), kind="stable")
        return rollouts[order], errors[order]


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
    """Yield every reference figure with ours."""
    for prior, own in results.own.items():
        yield Comparison(prior, "the prior itself", 0, own, OWN_ERROR[prior])
        for curve, points in REFERENCE[prior].items():
            yield from _compared(results, prior, curve, points)


def _compared(results: Results, prior: str, curve: str, points: Points) -> Iterator[Comparison]:
    rollouts, errors = results.curve(prior, curve)
    for at, reference in points:
        if len(rollouts) == 1:
            yield Comparison(prior, curve, float(rollouts.mean()), errors[0], reference)
        else:
            ours = [_interpolated(at, *pair) for pair in zip(rollouts.T, errors.T, strict=True)]
            yield Comparison(prior, curve, at, np.array(ours), reference)


def _interpolated(at: float, rollouts: FloatArray, errors: FloatArray) -> float:
    """Return the error at `at` rollouts, linear between points on a plot with logarithmic axes."""
    order = np.argsort(rollouts, kind="stable")
    return float(np.exp(np.interp(np.log(at), np.log(rollouts[order]), np.log(errors[order]))))


def table(compared: Sequence[Comparison]) -> str:
    """Return the comparison as a Markdown table."""
    lines = [
        "| prior | method | rollouts | ours (± one run) | reference | apart, in spreads of one run |",
        "|---|---|---|---|---|---|",
    ]
    for row in compared:
        at = f"{row.rollouts:.1f}" if row.rollouts else ""
        ours = f"{row.ours.mean():.3f} ± {row.spread:.3f}"
        lines.append(f"| {row.prior} | {row.curve} | {at} | {ours} | {row.reference:.3f} | {row.deviations:.1f} |")
    return "\n".join(lines)


def all_points(results: Results) -> str:
    """Return every measured point as a Markdown table, those without a reference included."""
    lines = ["| prior | method | setting | rollouts | squared error |", "|---|---|---|---|---|"]
    for prior in results.own:
        for place, method in enumerate(results.methods):
            error, rollouts = results.errors[prior][place], results.rollouts[prior][place]
            scatter = f" ± {error.std(ddof=1):.3f}" if error.size > 1 else ""
            lines.append(
                f"| {prior} | {method.curve} | {method.label} | {rollouts.mean():.1f} | {error.mean():.3f}{scatter} |"
            )
    return "\n".join(lines)


def plot(results: Results, path: Path) -> None:
    """Draw error against mean rollouts, a panel per prior, a curve per method, the reference as open circles."""
    figure, axes = plt.subplots(1, len(results.own), figsize=(4.6 * len(results.own), 4.4), sharey=True, squeeze=False)
    curves = list(dict.fromkeys(method.curve for method in results.methods))
    for axis, (prior, own) in zip(axes[0], results.own.items(), strict=True):
        for curve in curves:
            rollouts, errors = results.curve(prior, curve)
            axis.plot(rollouts.mean(axis=1), errors.mean(axis=1), "o-", markersize=3, linewidth=1.2, label=curve)
        given = [point for points in REFERENCE[prior].values() for point in points]
        axis.plot(*zip(*given, strict=True), "o", markersize=8, color="black", fillstyle="none", label="reference")
        axis.set(xscale="log", yscale="log", title=f"{prior} (itself {own.mean():.3f})", xlabel="rollouts per prompt")
        axis.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axis.set_yticks([0.03, 0.05, 0.1, 0.2], ["0.03", "0.05", "0.1", "0.2"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("squared error of the baseline, {-1, +1} scale")
    axes[0, -1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
