"""A replay as people read it: a page of text, and a picture of three panels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rollout_budget.errors import InvalidInput
from rollout_budget.replay.records import Replay

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS, PALE = "#0b6e4f", "#b3541e", "#8a8f98"


def text(found: Replay) -> str:
    """Return the report as plain text."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Replay) -> Iterator[str]:
    yield f"{found.groups:,} groups, {found.rollouts:,} rollouts, {found.prompts:,} prompts, outcomes in [{found.low:g}, {found.high:g}]"
    if found.left_out:
        yield f"{found.left_out:,} groups of fewer than 3 rollouts were left out: nothing to measure baselines by"
    yield ""
    yield f"{found.without_signal:.1%} of the groups had no signal: all outcomes equal, {found.wasted:,} rollouts"
    yield f"{found.recurring:.1%} of the groups were of a prompt that had been logged before"
    yield ""
    yield f"{'':24}{'rollouts a group':>18}{'squared error of the baseline':>32}"
    yield f"{'logged, mean of a group':24}{found.size:>18.2f}{found.logged_error:>32.5f}"
    for point in found.ours:
        yield f"{'ours, ' + point.name:24}{point.rollouts:>18.2f}{point.squared_error:>32.5f} +- {point.standard_error:.5f}"
    yield ""
    yield _verdict(found)
    yield _prior(found)


def _verdict(found: Replay) -> str:
    if found.saved is None:
        return "saved at equal error: unknown; no price reached the logged error with the rollouts that there are"
    if found.between is None:
        sure = "the log is too short to be sure"
    else:
        low, high = found.between
        sure = f"90% interval over groups {low:.0%} to {high:.0%}"
    if found.saved < 0:
        return f"saved at equal error: none; ours would need {-found.saved:.0%} more rollouts; {sure}"
    return f"saved at equal error: {found.saved:.0%} of the rollouts ({found.equal:.2f} a group for {found.size:.2f}); {sure}"


def _prior(found: Replay) -> str:
    weights = np.array([step.groups for step in found.steps], dtype=np.float64)
    errors = np.array([step.prior_error for step in found.steps])
    means = np.array([step.mean_error for step in found.steps])
    spread = np.array([step.spread for step in found.steps])
    total = float(weights @ spread)
    if total <= 0.0:
        return "prior: all prompts are equally hard as far as the log can tell; nothing for a prior to explain"
    own, mean = 1.0 - float(weights @ errors) / total, 1.0 - float(weights @ means) / total
    return (
        f"prior: a prompt's own past explains {own:.0%} of the variance between prompts (running mean: {mean:.0%}); "
        "the prior service, which reads texts, is not part of a replay"
    )


def plot(found: Replay, path: Path) -> None:
    """Write a picture: error against rollouts, groups without signal, the prior by step.

    Raises:
        InvalidInput: matplotlib is not installed, or knows no such file type.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  only for pictures
    except ImportError:
        raise InvalidInput("a picture needs matplotlib: pip install 'rollout-budget[replay]'") from None
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    sizes, signal, prior = figure.subplots(1, 3)
    _sizes(sizes, found)
    _signal(signal, found)
    _quality(prior, found)
    for axes in (sizes, signal, prior):
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=130)
    except ValueError as error:
        raise InvalidInput(f"{path}: {error}") from None


def _sizes(axes: Axes, found: Replay) -> None:
    within = found.logged_error * found.size
    grid = np.linspace(1.0, max(found.size, 2.0), 100)
    axes.plot(grid, within / grid, color=THEIRS, linestyle="--", label="mean of a group of this size")
    axes.plot([found.size], [found.logged_error], "s", color=THEIRS, label="as logged")
    clear = [point for point in found.ours if point.squared_error > point.standard_error]
    x, y = [point.rollouts for point in clear], [point.squared_error for point in clear]
    axes.errorbar(x, y, [point.standard_error for point in clear], fmt="o-", color=OURS, label="ours, by price")
    if found.equal is not None:
        axes.axvline(found.equal, color=PALE, linewidth=0.8)
    axes.set(xlabel="rollouts a group", ylabel="squared error of the baseline", yscale="log")
    axes.legend(frameon=False, fontsize=8)


def _signal(axes: Axes, found: Replay) -> None:
    versions = [step.version for step in found.steps]
    axes.plot(versions, [step.without_signal for step in found.steps], color=THEIRS, label="groups without signal")
    means = [(step.mean_outcome - found.low) / (found.high - found.low) for step in found.steps]
    axes.plot(versions, means, color=PALE, label="mean outcome (0 to 1)")
    axes.set(xlabel="version", ylabel="share", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8)


def _quality(axes: Axes, found: Replay) -> None:
    versions = [step.version for step in found.steps]
    axes.plot(versions, [step.prior_error for step in found.steps], color=OURS, label="a prompt's own past")
    axes.plot(versions, [step.mean_error for step in found.steps], color=THEIRS, label="running mean")
    axes.plot(versions, [step.spread for step in found.steps], color=PALE, label="variance between prompts")
    axes.set(xlabel="version", ylabel="squared error of the prior")
    axes.legend(frameon=False, fontsize=8)
