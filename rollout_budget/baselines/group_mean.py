"""The group's own mean, as in GRPO (arXiv 2402.03300), without its division by the standard deviation.

Every sample sees itself in its baseline, so its expected gradient is (k - 1)/k of the true one: nothing at k = 1,
where the advantage is 0. The prior serves only groups without outcomes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.baselines.base import Baselines
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability


class GroupMean:
    """`b = ybar`; V where k = 0."""

    name: ClassVar[str] = "group_mean"
    drops_prior: ClassVar[bool] = False

    def __call__(self, groups: Groups, reliability: Reliability) -> Baselines:
        """Return the group means; the standard error is `sqrt(S / k)`, `sqrt(D)` where k = 0."""
        empty = groups.sizes == 0
        value = np.where(empty, groups.prior, groups.means)
        variance = np.where(empty, reliability.squared_prior_error, reliability.within_variance)
        return Baselines(
            value=value,
            per_sample=value[groups.owner],
            weight=np.where(empty, 0.0, 1.0),
            trusted=empty,
            strength=np.zeros(len(groups)),
            standard_error=np.sqrt(variance / np.maximum(groups.sizes, 1)),
        )
