"""The report's pictures: which curves, and their drawing as SVG for the page and as PNG for elsewhere.

The SVGs take their colours from the page's CSS variables, so that one picture serves light and dark: figures are drawn in
stand-in colours, which are then replaced by `var(--name)`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from trainer.metrics import StepMetrics
from trainer.report.comparison import ROLLOUTS, SECONDS, TOKENS, Axis, Comparison, Curve, Method, mean_curve

SIZE_INCHES = (6.4, 3.6)
PNG_DPI = 160
SMOOTHING_STEPS = 5
"""Steps in a running mean of per-step figures, which jump with the prompts of the step."""
FLOOR = -1.0
"""Explained variance under which a curve is cut: the first few groups can show -100, and would flatten all the rest."""


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of ink, grid and methods, in that order."""

    ink: str
    grid: str
    series: tuple[str, ...]


PRINT = Palette("#24292f", "#d8dee4", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9"))
"""On white: Okabe and Ito's colours, which colour-blind readers can tell apart."""
STAND_IN = Palette("#010101", "#010102", tuple(f"#0102{index:02x}" for index in range(len(PRINT.series))))
"""Colours that nothing else uses, to be replaced by CSS variables."""
CSS_NAMES = {STAND_IN.ink: "ink", STAND_IN.grid: "grid"} | {
    colour: f"series-{index}" for index, colour in enumerate(STAND_IN.series)
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture. `curves` has, per method, one curve per seed."""

    key: str
    title: str
    across: str
    up: str
    curves: tuple[tuple[Curve, ...], ...]
    level: float = math.nan


def plots(comparison: Comparison) -> list[Plot]:
    """Return what there is to draw; a picture without any point is left out."""
    chosen = [
        _accuracy(comparison, "rollouts", "Held-out accuracy against rollouts", "rollouts used", ROLLOUTS),
        _accuracy(comparison, "tokens", "Held-out accuracy against tokens", "tokens sampled", TOKENS),
        _accuracy(comparison, "wall-clock", "Held-out accuracy against time", "seconds of training", SECONDS),
        _by_step(comparison, "group-size", "Rollouts per prompt", "mean group size", lambda row: row.mean_group_size),
        _saved(comparison),
        _by_step(comparison, "training", "Accuracy of the rollouts", "mean outcome", lambda row: row.accuracy),
        _by_step(
            comparison, "prior-error", "Error of the prior", "pooled squared error", lambda row: row.prior_squared_error
        ),
        _by_step(
            comparison,
            "prior-variance",
            "What the prior explains",
            "explained variance, at least -1",
            lambda row: None if row.prior_explained_variance is None else max(row.prior_explained_variance, FLOOR),
        ),
    ]
    return [plot for plot in chosen if any(across.size for curves in plot.curves for across, _ in curves)]


def svg(plot: Plot, names: list[str]) -> str:
    """Return the picture as an SVG element in the colours of the page's CSS."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.key}):
        _draw(plot, names, STAND_IN).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, name in CSS_NAMES.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{plot.title}" ', 1)


def png(plot: Plot, names: list[str]) -> bytes:
    """Return the picture as a PNG on white."""
    buffer = io.BytesIO()
    _draw(plot, names, PRINT).savefig(buffer, format="png", dpi=PNG_DPI, facecolor="white")
    return buffer.getvalue()


def _accuracy(comparison: Comparison, key: str, title: str, across: str, axis: Axis) -> Plot:
    return Plot(
        key=f"accuracy-{key}",
        title=title,
        across=across,
        up="held-out accuracy",
        curves=tuple(tuple(run.accuracy(axis) for run in method.runs) for method in comparison.methods),
        level=comparison.target,
    )


def _by_step(
    comparison: Comparison, key: str, title: str, up: str, figure: Callable[[StepMetrics], float | None]
) -> Plot:
    curves = tuple(_figures(method, figure) for method in comparison.methods)
    return Plot(key=key, title=title, across="step", up=up, curves=curves)


def _saved(comparison: Comparison) -> Plot:
    def curve(rows: tuple[StepMetrics, ...]) -> Curve:
        return np.array([float(row.rollouts_total) for row in rows]), np.array(
            [float(row.rollouts_saved) for row in rows]
        )

    size = comparison.methods[0].runs[0].config.allocator.reference_group_size
    return Plot(
        key="rollouts-saved",
        title=f"Rollouts saved against {size} per prompt",
        across="rollouts used",
        up="rollouts saved",
        curves=tuple(tuple(curve(run.rows) for run in method.runs) for method in comparison.methods),
    )


def _figures(method: Method, figure: Callable[[StepMetrics], float | None]) -> tuple[Curve, ...]:
    curves = []
    for run in method.runs:
        found = [(float(row.step), value) for row in run.rows if (value := figure(row)) is not None]
        values = np.array([value for _, value in found])
        means = [values[max(0, index - SMOOTHING_STEPS + 1) : index + 1].mean() for index in range(len(values))]
        curves.append((np.array([place for place, _ in found]), np.array(means)))
    return tuple(curves)


def _draw(plot: Plot, names: list[str], palette: Palette) -> Figure:
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, curves) in enumerate(zip(names, plot.curves, strict=True)):
        colour = palette.series[index % len(palette.series)]
        drawn = [(across, up) for across, up in curves if across.size]
        if len(drawn) > 1:
            for across, up in drawn:
                axes.plot(across, up, color=colour, linewidth=0.9, alpha=0.4)
        if drawn:
            axes.plot(*mean_curve(drawn), color=colour, linewidth=2.2, label=name)
    if math.isfinite(plot.level):
        axes.axhline(plot.level, color=palette.ink, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.6)
    _furnish(axes, plot, palette)
    return figure


def _furnish(axes: Axes, plot: Plot, palette: Palette) -> None:
    axes.set_title(plot.title, loc="left", fontsize=11, color=palette.ink, fontweight="bold")
    axes.set_xlabel(plot.across, color=palette.ink, fontsize=9)
    axes.set_ylabel(plot.up, color=palette.ink, fontsize=9)
    axes.tick_params(colors=palette.ink, labelsize=8, length=0)
    axes.grid(color=palette.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.legend(frameon=False, fontsize=8, labelcolor=palette.ink, loc="best")
