"""The control that knows the policy but not the prompt: a discounted mean over the versions nearest to the one asked.

Its standard error is the spread of prompts around that mean, with the noise of the outcomes taken out: what one would
be wrong by when saying the mean for every prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rollout_budget.wire import PriorModel
from services.prior_api.heads import constant
from services.prior_api.heads.base import Predictions, Question
from services.prior_api.records import Level

HALF_LIFE_VERSIONS = 5.0
"""A version this far from the nearest one counts half: accuracy drifts over tens of steps, a step has dozens of rows."""
PRIOR_ROWS = 2.0
"""Rows that the constant's value and spread count for, so that one row is not believed blindly."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean success rate of a policy near a version, and the variance of prompts' rates around it (noise removed)."""

    mean: float
    spread: float


def summarise(levels: Sequence[Level], version: int) -> Summary:
    """Add up the levels, those near `version` counting most; without any, the constant's value and spread."""
    if not levels:
        return Summary(constant.VALUE, constant.SPREAD**2)
    distance = np.abs(np.array([level.version for level in levels], dtype=np.float64) - version)
    weights = 0.5 ** ((distance - distance.min()) / HALF_LIFE_VERSIONS)
    columns = ("rows", "rates", "squared_rates", "within", "within_rows", "inverse_trials")
    table = np.array([[getattr(level, name) for name in columns] for level in levels], dtype=np.float64)
    rows, rates, squared, within, within_rows, inverse = weights @ table
    mean = rates / rows
    noise = within / within_rows if within_rows > 0 else mean * (1 - mean)
    spread = max(0.0, squared / rows - mean**2 - noise * inverse / rows)
    total = rows + PRIOR_ROWS
    return Summary(
        float((rates + PRIOR_ROWS * constant.VALUE) / total),
        float((rows * spread + PRIOR_ROWS * constant.SPREAD**2) / total),
    )


class RunningMean:
    """Answers the same for every prompt of one policy and version."""

    name: PriorModel = "running_mean"
    version = "running_mean/1"

    def values(self, question: Question) -> Predictions:
        """Return the discounted mean for every prompt."""
        summary = summarise(question.levels, question.version)
        shape = len(question.identities)
        return Predictions.of(np.full(shape, summary.mean), np.full(shape, summary.spread))
