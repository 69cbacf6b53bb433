"""The control that knows nothing: every prompt succeeds half the time."""

from __future__ import annotations

import math

import numpy as np

from rollout_budget.wire import PriorModel
from services.prior_api.heads.base import Predictions, Question

VALUE = 0.5
SPREAD = math.sqrt(1 / 8)
"""Standard deviation of the arcsine law, Beta(1/2, 1/2): real success rates pile up at 0 and 1."""


class Constant:
    """Answers 1/2, with the spread of success rates as its standard error."""

    name: PriorModel = "constant"
    version = "constant/1"

    def values(self, question: Question) -> Predictions:
        """Return the same value for every prompt."""
        shape = len(question.identities)
        return Predictions(np.full(shape, VALUE), np.full(shape, SPREAD))
