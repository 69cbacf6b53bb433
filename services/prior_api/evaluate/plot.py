"""An evaluation as one picture: calibration curves under two protocols, AUC and explained variance under all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from services.prior_api.evaluate.run import Result
from services.prior_api.evaluate.summary import Figures, figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = ("unseen", "recurring")
"""Protocols whose calibration is drawn, where they were run; otherwise the first two."""
MIN_ROWS = 20
"""A bin with fewer rows than this is noise, and not drawn."""


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw the results that have figures.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415  the report is whole without it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  after the backend is chosen

    done = {(result.protocol.name, result.head): figures(result) for result in results if result.judgements}
    protocols, heads = _names(done)
    figure, axes = plt.subplots(2, 2, figsize=(12, 9), gridspec_kw={"height_ratios": [1.2, 1]})
    drawn = [name for name in CURVES if name in protocols] or protocols[:2]
    for axis, protocol in zip(axes[0], drawn, strict=False):
        _calibration(axis, protocol, {head: done[protocol, head] for head in heads if (protocol, head) in done})
    for axis in axes[0][len(drawn) :]:
        axis.set_axis_off()
    _bars(axes[1][0], done, lambda found: (found.mean.auc, found.spread.auc), "AUC", base=0.5)
    _bars(
        axes[1][1],
        done,
        lambda found: (found.mean.explained_variance, found.spread.explained_variance),
        "explained variance",
        base=0.0,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _calibration(axis: Axes, protocol: str, found: dict[str, Figures]) -> None:
    axis.plot([0, 1], [0, 1], color="black", linewidth=0.8, label="calibrated")
    for head, one in found.items():
        curve = [(value, rate, rows) for value, rate, rows in one.bins.curve() if rows >= MIN_ROWS]
        values, rates = [value for value, _, _ in curve], [rate for _, rate, _ in curve]
        axis.plot(values, rates, "o-", markersize=4, linewidth=1.2, label=f"{head} ({one.calibration_error:.3f})")
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="value", ylabel="mean rate", title=f"calibration (error), {protocol}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _bars(
    axis: Axes,
    done: dict[tuple[str, str], Figures],
    figure: Callable[[Figures], tuple[float, float]],
    title: str,
    *,
    base: float,
) -> None:
    """Draw groups of bars from `base`, a group per protocol and a bar per head; half the range over splits as whiskers."""
    protocols, heads = _names(done)
    width = 0.8 / len(heads)
    for place, head in enumerate(heads):
        bars = [(at, *figure(done[name, head])) for at, name in enumerate(protocols) if (name, head) in done]
        known = [bar for bar in bars if not math.isnan(bar[1])]
        axis.bar(
            [at + (place - (len(heads) - 1) / 2) * width for at, _, _ in known],
            [height - base for _, height, _ in known],
            width,
            bottom=base,
            yerr=[spread for _, _, spread in known],
            label=head,
            error_kw={"linewidth": 0.8},
        )
    axis.axhline(base, color="black", linewidth=0.8)
    axis.set_xticks(range(len(protocols)), protocols, rotation=30, ha="right", fontsize=8)
    axis.set_title(title)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8)


def _names(done: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    pairs = list(done)
    return list(dict.fromkeys(protocol for protocol, _ in pairs)), list(dict.fromkeys(head for _, head in pairs))
