"""EBPO (arXiv 2602.05165): a group's mean shrunk to the running mean of all prompts.

    b = (1 - S) ybar + S mu_global,    S = (sigma^2 / k) / (sigma^2 / k + tau^2)

with sigma^2 the variance within groups and tau^2 the variance of success rates between prompts, both of the whole run.
The paper keeps them by Welford's recursion over all groups ever; here they are the run's decayed sums over recent
groups. As in the paper one baseline serves the whole group, which each sample therefore sees itself in: the expected
gradient is short of (1 - S)/k of the true one. Until the run has learned from a group of two nothing is shrunk. V serves
only groups without outcomes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.baselines.base import Baselines
from rollout_budget.baselines.group_mean import GroupMean
from rollout_budget.groups import Groups
from rollout_budget.reliability import MAX_STRENGTH, MIN_SPREAD, Reliability


class Ebpo:
    """`b = (1 - S) ybar + S mu_global`; V where k = 0."""

    name: ClassVar[str] = "ebpo"
    drops_prior: ClassVar[bool] = True

    def __call__(self, groups: Groups, reliability: Reliability) -> Baselines:
        """Return shrunk means; `weight` is 1 - S, `strength` sigma^2 / tau^2."""
        whole = GroupMean()(groups, reliability)
        strength, centre = _global(reliability)
        weight = np.where(groups.sizes > 0, groups.sizes / np.maximum(groups.sizes + strength, 1.0), 0.0)
        value = np.where(groups.sizes > 0, weight * whole.value + (1.0 - weight) * centre, whole.value)
        return Baselines(
            value=np.clip(value, 0.0, 1.0),
            per_sample=np.clip(value, 0.0, 1.0)[groups.owner],
            weight=weight,
            trusted=groups.sizes == 0,
            strength=np.full(len(groups), strength),
            standard_error=whole.standard_error * np.sqrt(np.where(groups.sizes > 0, weight, 1.0)),
        )


def _global(learned: Reliability) -> tuple[float, float]:
    """Return sigma^2 / tau^2, at most `MAX_STRENGTH`, and mu_global; 0 and 0 before anything is known."""
    if learned.pair_weight <= 0.0 or learned.running_mean is None:
        return 0.0, 0.0
    mean = learned.pair_mean / learned.pair_weight
    between = max(learned.pair_square / learned.pair_weight - mean**2, MIN_SPREAD)
    return min(learned.within_variance / between, MAX_STRENGTH), learned.running_mean
