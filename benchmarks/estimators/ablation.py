"""What each part of ours is worth: the variants of `variants.VARIANTS` on the same streams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.estimators.bounds import BAYES
from benchmarks.estimators.methods import Method, stopped, varied
from benchmarks.estimators.results import Results
from benchmarks.estimators.variants import Variant

SIZES = (1, 2, 4, 8)
STOP_PRICES = (1 / 32, 1 / 64, 1 / 128)
STOP_AT = 4.0
"""Rollouts at which the stop is read off its curve."""


def methods(variants: Sequence[Variant]) -> list[Method]:
    """Return every variant at fixed sizes and with its stop."""
    fixed = [varied(variant.name, variant, k) for variant in variants for k in SIZES]
    return fixed + [stopped(_stop(variant), variant, price, 2) for variant in variants for price in STOP_PRICES]


def table(results: Results, variants: Sequence[Variant]) -> str:
    """Return squared errors on the {-1, +1} scale, each with its excess over the Bayes-optimal one."""
    heads = [*(f"k = {k}" for k in SIZES), f"stop at {STOP_AT:.0f}"]
    lines = [f"| outcomes | prior | variant | {' | '.join(heads)} |", "|" + "---|" * (3 + len(heads))]
    for case in results.figures:
        best = {k: results.figures[case][BAYES, f"k = {k}"][:, 1] for k in SIZES}
        for variant in variants:
            cells = []
            for k in SIZES:
                error = results.figures[case][variant.name, f"k = {k}"][:, 1]
                cells.append(f"{error.mean():.3f} ({100 * (error.mean() / best[k].mean() - 1):+.0f}%)")
            stop = results.at(case, _stop(variant), "error", STOP_AT)
            cells.append(f"{stop.mean():.3f}" if np.isfinite(stop).all() else "")
            lines.append(f"| {case[0]} | {case[1]} | {variant.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _stop(variant: Variant) -> str:
    return f"{variant.name}, stop"
