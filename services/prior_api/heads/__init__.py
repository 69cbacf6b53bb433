"""Heads: mathematics from evidence to values. No clock, no I/O; each file is one way to predict a success rate."""

from __future__ import annotations

from services.prior_api.heads.base import Context, Head, Predictions, Predictor, Question
from services.prior_api.heads.constant import Constant
from services.prior_api.heads.gp import GaussianProcess
from services.prior_api.heads.history import History
from services.prior_api.heads.running_mean import RunningMean

CONTROLS: dict[str, Predictor] = {control.name: control for control in (Constant(), RunningMean(), History())}
"""Predictors that need no fit; always there, beside any model."""

__all__ = ["CONTROLS", "Context", "GaussianProcess", "Head", "Predictions", "Predictor", "Question"]
