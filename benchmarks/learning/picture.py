"""Two pictures for the document: accuracy against rollouts on every task and pool, and how methods train on one of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.learning.analysis import Family, families, smoothed
from benchmarks.learning.methods import REFERENCE
from benchmarks.learning.results import Measured, Result
from rollout_budget.outcomes import FloatArray
from trainer.report.comparison import Curve, mean_curve
from trainer.report.plots import PNG_DPI, PRINT

PANEL_INCHES = (4.6, 3.1)
STEPS_IN_MEAN = 5
"""Steps in a running mean of what jumps with the prompts of a step."""


def overview(panels: Sequence[tuple[str, Sequence[Result]]], names: Sequence[str]) -> bytes:
    """Return a PNG with a panel per scene: the mean of each method over seeds, its lowest and highest, and the level."""
    figure, places = _grid(len(panels))
    for axes, (title, results) in zip(places, panels, strict=False):
        longest = max(run.rollouts for run in results if run.method == REFERENCE)
        found = families(results, longest)
        for index, name in enumerate(names):
            if name in found:
                _band(axes, found[name], name, PRINT.series[index % len(PRINT.series)])
        axes.axhline(float(found[REFERENCE].finals.mean()), color=PRINT.ink, linewidth=0.8, linestyle=(0, (4, 4)))
        _furnish(axes, title, "rollouts", "held-out accuracy")
    places[0].legend(frameon=False, fontsize=7)
    return _png(figure)


def training(title: str, results: Sequence[Result], names: Sequence[str]) -> bytes:
    """Return a PNG of one scene: accuracy against tokens and against seconds, entropy and gradient norm by rollouts."""
    figure, places = _grid(4)
    curves: list[tuple[str, str, Callable[[Result], Curve]]] = [
        ("tokens sampled", "held-out accuracy", lambda run: smoothed(run, _tokens)),
        ("seconds of drawing, learning, publishing", "held-out accuracy", lambda run: smoothed(run, _seconds)),
        ("rollouts", "entropy", lambda run: steps(run, [step.entropy for step in run.steps])),
        ("rollouts", "gradient norm", lambda run: steps(run, [step.grad_norm for step in run.steps])),
    ]
    for axes, (across, up, curve) in zip(places, curves, strict=True):
        for index, name in enumerate(names):
            drawn = [curve(run) for run in results if run.method == name]
            if drawn:
                axes.plot(*mean_curve(drawn), color=PRINT.series[index % len(PRINT.series)], label=name, linewidth=1.8)
        _furnish(axes, title, across, up)
    places[0].legend(frameon=False, fontsize=7)
    return _png(figure)


def steps(result: Result, figures: Sequence[float | None]) -> Curve:
    """Return a figure of each step against rollouts, as a running mean."""
    found = [
        (float(step.rollouts), value) for step, value in zip(result.steps, figures, strict=True) if value is not None
    ]
    values = np.array([value for _, value in found], dtype=np.float64)
    means = [values[max(0, at - STEPS_IN_MEAN + 1) : at + 1].mean() for at in range(len(values))]
    return np.array([place for place, _ in found], dtype=np.float64), np.array(means, dtype=np.float64)


def _tokens(point: Measured) -> float:
    return point.tokens


def _seconds(point: Measured) -> float:
    return point.seconds


def _band(axes: Axes, family: Family, name: str, colour: str) -> None:
    curves: FloatArray = family.curves
    axes.fill_between(family.across, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.12, linewidth=0)
    axes.plot(family.across, curves.mean(axis=0), color=colour, linewidth=1.8, label=name)


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    rows = max(1, (panels + 1) // 2)
    figure = Figure(figsize=(2 * PANEL_INCHES[0], rows * PANEL_INCHES[1]), layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, 2)))


def _furnish(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold", color=PRINT.ink)
    axes.set_xlabel(across, fontsize=8, color=PRINT.ink)
    axes.set_ylabel(up, fontsize=8, color=PRINT.ink)
    axes.tick_params(labelsize=7, length=0, colors=PRINT.ink)
    axes.grid(color=PRINT.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor="white")
    return buffer.getvalue()
