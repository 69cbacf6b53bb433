"""The mean of a sample's siblings, as in RLOO (arXiv 2402.14740).

No sample sees itself, so the policy gradient is unbiased at a fixed k. A singleton has no siblings: its baseline is
the prior, never 0, which would turn every outcome into praise.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.baselines.base import Baselines
from rollout_budget.baselines.group_mean import GroupMean
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability


class LeaveOneOut:
    """`b_i = (sum(y) - y_i) / (k - 1)`; V where k = 1. The value of the group is its mean, as in `group_mean`."""

    name: ClassVar[str] = "leave_one_out"
    drops_prior: ClassVar[bool] = True

    def __call__(self, groups: Groups, reliability: Reliability) -> Baselines:
        """Return the group means, with the mean of the others for each sample."""
        whole = GroupMean()(groups, reliability)
        owner = groups.owner
        siblings = groups.sizes[owner] - 1
        others = (groups.sums[owner] - groups.outcomes) / np.maximum(siblings, 1)
        return Baselines(
            value=whole.value,
            per_sample=np.where(siblings > 0, np.clip(others, 0.0, 1.0), groups.prior[owner]),
            weight=whole.weight,
            trusted=groups.sizes <= 1,
            strength=whole.strength,
            standard_error=whole.standard_error,
        )
