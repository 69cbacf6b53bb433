"""Baseline estimators by name: one file each, one protocol (`base`)."""

from __future__ import annotations

from rollout_budget.baselines.base import BaselineEstimator, Baselines
from rollout_budget.baselines.beta_history import BetaHistory
from rollout_budget.baselines.ebpo import Ebpo
from rollout_budget.baselines.empirical_bayes import EmpiricalBayes
from rollout_budget.baselines.group_mean import GroupMean
from rollout_budget.baselines.james_stein import JamesStein
from rollout_budget.baselines.leave_one_out import LeaveOneOut
from rollout_budget.baselines.v05 import V05
from rollout_budget.errors import InvalidInput

__all__ = ["ESTIMATORS", "BaselineEstimator", "Baselines", "get"]

_ALL: tuple[BaselineEstimator, ...] = (
    GroupMean(),
    LeaveOneOut(),
    V05(),
    EmpiricalBayes(),
    JamesStein(),
    Ebpo(),
    BetaHistory(),
)

ESTIMATORS: dict[str, BaselineEstimator] = {estimator.name: estimator for estimator in _ALL}


def get(name: str) -> BaselineEstimator:
    """Return the estimator of this name.

    Raises:
        InvalidInput: there is none; the message lists those there are.
    """
    try:
        return ESTIMATORS[name]
    except KeyError:
        raise InvalidInput(f"no estimator {name!r}; there are {', '.join(ESTIMATORS)}") from None
