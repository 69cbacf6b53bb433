"""Figures of an evaluation as plain numbers: what the report prints, the plot draws and the JSON file holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from services.prior_api.evaluate import scores
from services.prior_api.evaluate.calibration import Bins
from services.prior_api.evaluate.data import Key
from services.prior_api.evaluate.run import LATENCY_PROMPTS, Result
from services.prior_api.evaluate.scores import Scores


@dataclass(frozen=True, slots=True)
class Figures:
    """One head under one protocol, or under one key of it.

    Attributes:
        mean: scores, keys counting the same within a split, splits the same among each other.
        spread: half their range over splits.
        calibration_error: rows of all keys together, mean over splits.
        calibration_spread: half its range over splits.
        calibration_chance: what it would be by chance alone if values were right, mean over splits.
        bins: all keys and splits together, for the curve.
        targets: held-back rows in one split.
        met: share of targets whose prompts the support speaks of.
        support: rows of evidence, the mean over keys and splits.
    """

    mean: Scores
    spread: Scores
    calibration_error: float
    calibration_spread: float
    calibration_chance: float
    bins: Bins
    targets: float
    met: float
    support: float


def figures(result: Result, key: Key | None = None) -> Figures:
    """Sum a result up, or what it says of one key; it has judgements."""
    groups = [[one for one in group if key in (None, one.key)] for group in result.by_split()]
    by_split = [scores.mean([one.scores for one in group]) for group in groups]
    bins = [Bins.total(one.bins for one in group) for group in groups]
    errors = [one.error for one in bins]
    judgements = [one for group in groups for one in group]
    targets = sum(one.targets for one in judgements)
    return Figures(
        mean=scores.mean(by_split),
        spread=scores.spread(by_split),
        calibration_error=float(np.mean(errors)),
        calibration_spread=float(np.ptp(errors) / 2),
        calibration_chance=float(np.mean([one.chance for one in bins])),
        bins=Bins.total(bins),
        targets=targets / len(groups),
        met=sum(one.met for one in judgements) / targets,
        support=float(np.mean([one.support for one in judgements])),
    )


def plain(result: Result) -> dict[str, Any]:
    """Return a result for JSON; what cannot be told is null."""
    head: dict[str, Any] = {
        "protocol": result.protocol.name,
        "evidence": result.protocol.meaning,
        "head": result.head,
    }
    if result.failure:
        return head | {"failure": result.failure}
    return head | {
        "head_version": result.version,
        "fit_s": float(np.median(result.fit_s)) if result.learns else 0.0,
        "values_ms": result.values_ms,
        "values_prompts": LATENCY_PROMPTS,
        **_plain(figures(result)),
        "keys": [{"policy": key[0], "version": key[1], **_plain(figures(result, key))} for key in result.by_key()],
    }


def _plain(found: Figures) -> dict[str, Any]:
    return {
        "targets": found.targets,
        "targets_met": found.met,
        "support_rows": found.support,
        "mean": _numbers(found.mean),
        "half_range_over_splits": _numbers(found.spread),
        "calibration_error": found.calibration_error,
        "calibration_error_half_range": found.calibration_spread,
        "calibration_error_by_chance": found.calibration_chance,
        "calibration_curve": [{"value": value, "rate": rate, "rows": rows} for value, rate, rows in found.bins.curve()],
    }


def _numbers(found: Scores) -> dict[str, float | None]:
    return {name: None if math.isnan(figure) else figure for name, figure in asdict(found).items()}
