"""The control that knows the prompt's own past: its discounted outcomes, shrunk to the policy's running mean.

A Beta prior with the mean and spread of the policy's prompts (method of moments) is updated with the prompt's outcomes,
each discounted by how many versions lie between.
"""

from __future__ import annotations

import numpy as np

from rollout_budget.wire import PriorModel
from services.prior_api.heads.base import Predictions, Question
from services.prior_api.heads.running_mean import summarise

HALF_LIFE_VERSIONS = 20.0
"""Outcomes this many versions away count half: a prompt is met again after an epoch, and the policy has moved."""
STRENGTH = (0.5, 100.0)
"""Bounds of the Beta prior's pseudo-rollouts: from "rates pile up at 0 and 1" to "all prompts are alike"."""


class History:
    """Answers the posterior mean of each prompt on its own."""

    name: PriorModel = "history"
    version = "history/1"

    def values(self, question: Question) -> Predictions:
        """Return the running mean, moved by what was seen of each prompt."""
        summary = summarise(question.levels, question.version)
        room = summary.mean * (1 - summary.mean)
        strength = float(np.clip(room / max(summary.spread, 1e-9) - 1, *STRENGTH))
        counts = np.zeros((len(question.identities), 2))
        for place, cells in enumerate(question.histories):
            for cell in cells:
                weight = 0.5 ** (abs(cell.version - question.version) / HALF_LIFE_VERSIONS)
                counts[place] += weight * cell.successes, weight * cell.trials
        total = strength + counts[:, 1]
        values = (strength * summary.mean + counts[:, 0]) / total
        return Predictions.of(values, values * (1 - values) / (total + 1))
