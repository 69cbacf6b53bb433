"""Scores of values against held-back rates of one key. Squared errors on the {-1, +1} scale, four times the unit one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.prior.data import TRIALS
from rollout_budget.outcomes import FloatArray

SCALE = 4.0
"""(1 - -1)^2: from squared errors on the unit scale to those on {-1, +1}."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one key, or their means over keys.

    Attributes:
        auc: chance that a prompt solved in half of its trials or more is ranked above one that is not.
        squared_error: against the denoised rate.
        raw_error: against the rate of ten trials.
        explained_variance: of the denoised rate, within the key.
        within_1, within_2: share of targets whose rate lies within 1 or 1.96 standard errors, the noise of ten trials
            included; 0.68 and 0.95 if the errors are calibrated and the errors' law is normal.
        z_deviation: standard deviation of those scores; 1 if calibrated.
    """

    auc: float
    squared_error: float
    raw_error: float
    explained_variance: float
    within_1: float
    within_2: float
    z_deviation: float


def score(values: FloatArray, errors: FloatArray, rates: FloatArray, truth: FloatArray) -> Scores:
    """Score values and their standard errors, shape (n,) each, against rates of ten trials and denoised rates."""
    squared = float(np.square(values - truth).mean())
    noise = float((rates * (1 - rates)).mean()) / (TRIALS - 1)
    z = (rates - values) / np.sqrt(np.square(errors) + noise)
    return Scores(
        auc=_auc(values, rates >= 0.5),
        squared_error=SCALE * squared,
        raw_error=SCALE * float(np.square(values - rates).mean()),
        explained_variance=1 - squared / float(truth.var()),
        within_1=float((np.abs(z) < 1).mean()),
        within_2=float((np.abs(z) < 1.96).mean()),
        z_deviation=float(np.sqrt(np.square(z).mean())),
    )


def mean(scores: Sequence[Scores]) -> Scores:
    """Average over keys or splits."""
    return Scores(*np.mean([astuple(item) for item in scores], axis=0).tolist())


def spread(scores: Sequence[Scores]) -> Scores:
    """Return half the range over splits."""
    table = np.array([astuple(item) for item in scores])
    return Scores(*((table.max(axis=0) - table.min(axis=0)) / 2).tolist())


NAMES = tuple(field.name for field in fields(Scores))


def _auc(values: FloatArray, positive: NDArray[np.bool_]) -> float:
    count = int(positive.sum())
    ranks = rankdata(values)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (positive.size - count)))
