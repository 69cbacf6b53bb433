"""Figures as Markdown tables and one plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt

from benchmarks.estimators.bounds import BAYES, ORACLE
from benchmarks.estimators.families import REAL
from benchmarks.estimators.methods import EMPIRICAL_BAYES, LOOK_AHEAD, STOPPED_AT_2, STOPPED_AT_AUTO
from benchmarks.estimators.results import Case, Results
from benchmarks.estimators.scores import NAMES
from benchmarks.estimators.targets import ALONE, Check
from rollout_budget.outcomes import FloatArray

MATCHED = (2.0, 4.0, 8.0, 12.0)
"""Rollouts per group at which methods are compared."""
MIDDLE = 4.0
"""Those at which all figures are given."""
BRIEF = (
    "group mean",
    "V0.5 fusion",
    "James-Stein",
    "EBPO",
    "Beta history (SPO)",
    EMPIRICAL_BAYES,
    STOPPED_AT_2,
    BAYES,
    ORACLE,
)
"""Curves of the table over all priors."""
DETAIL = ("sample_error", "gradient_variance", "gradient_error", "silent", "bias_sum", "bias_mean")
SHORT_DETAIL = ("sample_error", "gradient_variance", "gradient_error", "silent", "bias_sum")
"""Those of a table that is read rather than searched."""
HEADS = {
    "sample_error": "error of sample baselines",
    "gradient_variance": "gradient variance",
    "gradient_error": "gradient error",
    "silent": "silent groups",
    "bias_sum": "bias, summed",
    "bias_mean": "bias, averaged",
}
PANELS_A_ROW = 3
WORST = 5
"""Checks of the third target that are shown."""


def with_spread(values: FloatArray, digits: int = 3) -> str:
    """Return mean ± standard deviation over seeds; nothing where the figure does not exist."""
    if not np.isfinite(values).all():
        return ""
    spread = f" ± {values.std(ddof=1):.{digits}f}" if values.size > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]


def case_table(results: Results, case: Case, detail: Sequence[str] = DETAIL) -> str:
    """Return one prior's table: every curve, its error at matched rollouts, other figures at the middle number."""
    heads = [
        "method",
        *(f"error at {at:.0f}" for at in MATCHED),
        *(f"{HEADS[name]} at {MIDDLE:.0f}" for name in detail),
    ]
    lines = _head(heads)
    for curve in results.curves(case):
        rollouts, errors = results.curve(case, curve, "error")
        if len(rollouts) < 2:
            cells = [
                f"{curve} (all at {rollouts.mean():.1f} rollouts)",
                "",
                with_spread(errors[0]),
                *[""] * (len(MATCHED) - 2),
            ]
            others = [results.curve(case, curve, name)[1][0] for name in detail]
        else:
            cells = [curve, *(with_spread(results.at(case, curve, "error", at)) for at in MATCHED)]
            others = [results.at(case, curve, name, MIDDLE) for name in detail]
        lines.append(_row([*cells, *map(mean, others)]))
    return "\n".join(lines)


def mean(values: FloatArray) -> str:
    """Return the mean over seeds; nothing where the figure does not exist."""
    return f"{values.mean():.3f}" if np.isfinite(values).all() else ""


def overview(results: Results, at: float = MIDDLE) -> str:
    """Return one table over all families and priors: squared error at one number of rollouts."""
    curves = [curve for curve in BRIEF if any(curve in results.curves(case) for case in results.figures)]
    lines = _head(["outcomes", "prior (its own error)", *curves])
    for case, own in results.own.items():
        errors = [results.at(case, curve, "error", at) for curve in curves]
        lines.append(_row([case[0], f"{case[1]} ({own.mean():.3f})", *map(mean, errors)]))
    return "\n".join(lines)


def targets_table(checks: Sequence[Check]) -> str:
    """Return the targets with PASS or MISS; of the third, how many are met and the worst."""
    lines = _head(["target", "figure", "measured", "limit", ""])
    for name in ("T1", "T2", "T3", ALONE):
        of_target = [check for check in checks if check.target == name]
        shown = of_target
        if name in {"T3", ALONE} and of_target:
            met = sum(check.met for check in of_target)
            worst = max(check.measured for check in of_target)
            verdict = "PASS" if met == len(of_target) else "MISS"
            what = f"{met} of {len(of_target)} ratios within the limit; the worst, then the {WORST} worst one by one"
            lines.append(_row([name, what, f"{worst:.3f}", f"{of_target[0].limit:.2f}", verdict]))
            shown = sorted(of_target, key=lambda check: -check.measured)[:WORST]
        for check in shown:
            measured = f"{check.measured:.3f} ± {check.spread:.3f}"
            lines.append(_row([name, check.what, measured, f"{check.limit:.2f}", "PASS" if check.met else "MISS"]))
    return "\n".join(lines)


def all_points(results: Results) -> str:
    """Return every measured point with every figure."""
    lines = _head(["outcomes", "prior", "method", "setting", *NAMES])
    for (family, prior), points in results.figures.items():
        for (curve, label), rows in points.items():
            lines.append(_row([family, prior, curve, label, *(with_spread(column, 4) for column in rows.T)]))
    return "\n".join(lines)


def plot(results: Results, priors: Sequence[str], path: Path) -> None:
    """Draw error against mean rollouts on real outcomes (or the first family), a panel per prior."""
    family = REAL if any(case[0] == REAL for case in results.figures) else next(iter(results.figures))[0]
    cases = [(family, prior) for prior in priors if (family, prior) in results.figures]
    columns = min(len(cases), PANELS_A_ROW)
    rows = -(-len(cases) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(5.2 * columns, 4.2 * rows + 1.0), sharey=True, squeeze=False)
    axes = grid.ravel()
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]  # a listed colour map
    curves = list(dict.fromkeys(curve for case in cases for curve in results.curves(case)))
    for axis, case in zip(axes, cases, strict=False):
        for place, name in enumerate(curves):
            rollouts, errors = results.curve(case, name, "error")
            ours = name in {EMPIRICAL_BAYES, STOPPED_AT_2, STOPPED_AT_AUTO}
            style = {BAYES: "--", ORACLE: ":"}.get(name, "-")
            colour = "black" if name in {BAYES, ORACLE} else colours[place % len(colours)]
            marker = "*" if name == LOOK_AHEAD else "o"
            axis.plot(
                rollouts.mean(axis=1), errors.mean(axis=1), style, marker=marker, markersize=9 if marker == "*" else 3,
                linewidth=2.2 if ours else 1.1, color=colour, label=name,
            )  # fmt: skip
        axis.set(xscale="log", yscale="log", title=f"{case[1]} (itself {results.own[case].mean():.3f})")
        axis.set(xlabel="rollouts per group", ylim=(0.02, 0.6))
        axis.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axis.set_yticks([0.03, 0.05, 0.1, 0.2, 0.4], ["0.03", "0.05", "0.1", "0.2", "0.4"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in grid[:, 0]:
        axis.set_ylabel("squared error of the value, {-1, +1} scale")
    for axis in axes[len(cases) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=6, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.16 / rows, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
