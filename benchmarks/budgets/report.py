"""Tables and the plot of `benchmarks.budgets`. Means over seeds, ± their standard deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.budgets.spending import Spent
from rollout_budget.outcomes import FloatArray

mpl.use("Agg")
import matplotlib.pyplot as plt

Found = Mapping[str, Sequence[Spent]]
"""One run per seed, by way of spending."""
HINDSIGHT = "best fixed price in hindsight"
PACED = "paced"
EVEN = "even split over steps"


def spread(values: Sequence[float] | FloatArray) -> str:
    """Return mean and standard deviation."""
    found = np.asarray(values)
    return f"{found.mean():.3f} ± {found.std(ddof=1) if found.size > 1 else 0.0:.3f}"


def pacing_table(
    cases: Mapping[tuple[str, str, int], Found], budgets: Mapping[tuple[str, str, int], Sequence[int]]
) -> str:
    """Return one row per world, budget and way of spending."""
    lines = [
        "| outcomes | regime | rollouts per group | spending | total squared error | used | steps without budget | against best in hindsight |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, found in cases.items():
        best = np.array([run.total for run in found[HINDSIGHT]])
        for name, runs in found.items():
            total = np.array([run.total for run in runs])
            used = [int(run.rollouts.sum()) / budget for run, budget in zip(runs, budgets[case], strict=True)]
            starved = np.mean([run.starved for run in runs])
            lines.append(
                f"| {case[0]} | {case[1]} | {case[2]} | {name} | {total.mean():.0f} ± "
                f"{total.std(ddof=1) if total.size > 1 else 0.0:.0f} | {np.mean(used):.3f} | {starved:.0f} "
                f"| {spread(total / best)} |"
            )
    return "\n".join([*lines, "", *against(cases, PACED, EVEN)])


def against(cases: Mapping[tuple[str, str, int], Found], one: str, other: str) -> list[str]:
    """Return in how many cases the first way is at least as good as the other, and each ratio, seed by seed."""
    ratios = {
        case: np.array([a.total / b.total for a, b in zip(found[one], found[other], strict=True)])
        for case, found in cases.items()
    }
    wins = sum(float(ratio.mean()) <= 1.0 for ratio in ratios.values())
    rows = [
        f"- {', '.join(map(str, case))}: {spread(ratio)}{' (loses)' if float(ratio.mean()) > 1.0 else ''}"
        for case, ratio in ratios.items()
    ]
    return [f"Error of *{one}* over that of *{other}*, same seed; at or below 1 in {wins} of {len(ratios)}:", "", *rows]


def shares_table(cases: Mapping[tuple[str, str], Mapping[int, FloatArray]]) -> str:
    """Return the ratio of total squared errors, by worth over evenly, per world, prior and rollouts per group."""
    sizes = list(next(iter(cases.values())))
    lines = [
        "| outcomes | prior | " + " | ".join(f"{each} per group" for each in sizes) + " |",
        "|---|---|" + "---|" * len(sizes),
    ]
    lines += [
        f"| {case[0]} | {case[1]} | "
        + " | ".join(spread(found[each][:, 0] / found[each][:, 1]) for each in sizes)
        + " |"
        for case, found in cases.items()
    ]
    lost = [
        f"- {case[0]}, {case[1]}, {each} per group: {spread(rows[:, 0] / rows[:, 1])}"
        for case, found in cases.items()
        for each, rows in found.items()
        if float((rows[:, 0] / rows[:, 1]).mean()) > 1.0
    ]
    ratios = [float((rows[:, 0] / rows[:, 1]).mean()) for found in cases.values() for rows in found.values()]
    summary = (
        f"{sum(ratio <= 1.0 for ratio in ratios)} of {len(ratios)} means at or below 1; median "
        f"{np.median(ratios):.3f}, best {min(ratios):.3f}, worst {max(ratios):.3f}. Where it loses:"
    )
    return "\n".join([*lines, "", summary, "", *(lost or ["- nowhere"])])


def plot(cases: Mapping[tuple[str, str, int], Found], shown: Sequence[str], path: Path) -> None:
    """Draw price and rollouts left over the steps of the first seed, a column per regime of the first outcomes."""
    first, each = next(iter(cases))[0], next(iter(cases))[2]
    chosen = {case[1]: found for case, found in cases.items() if (case[0], case[2]) == (first, each)}
    figure, axes = plt.subplots(2, len(chosen), figsize=(3.4 * len(chosen), 6.0), squeeze=False, sharex=True)
    for column, (regime, found) in enumerate(chosen.items()):
        for name in shown:
            run = found[name][0]
            axes[0, column].plot(run.price, label=name, linewidth=1.2)
            axes[1, column].plot(np.cumsum(run.rollouts), label=name, linewidth=1.2)
        axes[0, column].set(yscale="log", title=regime)
        axes[1, column].set_xlabel("step")
    axes[0, 0].set_ylabel("price, {-1, +1} scale")
    axes[1, 0].set_ylabel("rollouts used")
    axes[1, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
