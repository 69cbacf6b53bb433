"""The tables and the plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.planning.simulate import Figures
from rollout_budget.outcomes import FloatArray

mpl.use("Agg")
from matplotlib import pyplot as plt

Runs = Mapping[str, list[Figures]]
"""Figures of every seed, by method; `UNIFORM` is among them."""
UNIFORM = "uniform"
HEAD = (
    "| method | groups a step | share with signal | signal per rollout | against uniform | rollouts per unit of signal "
    "| effective sample size | weighted noise | bias of the mean rate | longest wait | never |\n" + "|---" * 11 + "|"
)


def of(runs: Runs, method: str, figure: str) -> FloatArray:
    """Return one figure of all seeds."""
    return np.array([getattr(found, figure) for found in runs[method]])


def gain(runs: Runs, method: str) -> FloatArray:
    """Return the signal per rollout over that of the uniform choice in the same seed."""
    return of(runs, method, "signal") / of(runs, UNIFORM, "signal")


def table(runs: Runs) -> str:
    """Return one regime as Markdown."""
    return "\n".join([HEAD, *(_row(runs, method) for method in runs)])


def short(families: Mapping[str, Runs]) -> str:
    """Return signal per rollout against uniform, a column per family."""
    lines = ["| method | " + " | ".join(families) + " |", "|---" * (1 + len(families)) + "|"]
    for method in next(iter(families.values())):
        cells = [_spread(gain(runs, method), 2) for runs in families.values()]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def losses(name: str, runs: Runs) -> Iterator[str]:
    """Yield where a plan is worse than the uniform choice, or than a peer."""
    peers = {method for method in runs if not method.startswith("plan") and method != "oracle"}
    best = max(peers, key=lambda method: float(of(runs, method, "signal").mean()))
    for method in runs:
        if method.startswith("plan"):
            mine = gain(runs, method)
            if mine.mean() < 1.0:
                yield f"{name}: {method} has {_spread(mine, 3)} of the signal of a uniform choice"
            ratio = of(runs, method, "signal") / of(runs, best, "signal")
            if best != UNIFORM and ratio.mean() < 1.0:
                yield f"{name}: {method} has {_spread(ratio, 2)} of the signal of {best}"


def plot(regimes: Mapping[str, Runs], trade: Mapping[str, list[Figures]], path: Path) -> None:
    """Draw signal against uniform by method and regime, and what exploration trades."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(3, 2), layout="constrained")
    methods = list(next(iter(regimes.values())))[::-1]
    for shift, (regime, runs) in enumerate(regimes.items()):
        gains = [gain(runs, method) for method in methods]
        left.errorbar(
            [g.mean() for g in gains],
            np.arange(len(methods)) - 0.18 * (shift - 1),
            xerr=[g.std() for g in gains],
            fmt="osd"[shift],
            markersize=4,
            label=regime,
        )
    left.set_yticks(range(len(methods)), methods, fontsize=8)
    left.axvline(1.0, color="0.6", linewidth=0.8)
    left.set_xlabel("signal per rollout, uniform choice = 1")
    left.legend(fontsize=8)
    shares = list(trade)
    right.plot(
        [np.mean([f.effective for f in trade[s]]) for s in shares],
        [np.mean([f.signal for f in trade[s]]) for s in shares],
        "o",
    )
    for share in shares:
        place = (
            float(np.mean([f.effective for f in trade[share]])),
            float(np.mean([f.signal for f in trade[share]])),
        )
        right.annotate(share, place, fontsize=8, xytext=(4, 3), textcoords="offset points")
    right.margins(x=0.3)
    right.set_xlabel("effective sample size of the importance weights")
    right.set_ylabel("signal per rollout")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _row(runs: Runs, method: str) -> str:
    signal = of(runs, method, "signal")
    cells = [
        f"{of(runs, method, 'groups').mean():.1f}",
        _spread(of(runs, method, "mixed"), 3),
        _spread(signal, 4),
        _spread(gain(runs, method), 2),
        f"{(1 / signal).mean():.1f}",
        _spread(of(runs, method, "effective"), 2),
        _spread(of(runs, method, "noise"), 2),
        _spread(of(runs, method, "bias"), 3),
        f"{of(runs, method, 'wait').mean():.0f}",
        f"{of(runs, method, 'never').mean():.2f}",
    ]
    return f"| {method} | " + " | ".join("-" if "nan" in cell else cell for cell in cells) + " |"


def _spread(values: FloatArray, digits: int) -> str:
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"
