"""Empirical Bayes over the run's groups: the prior counts for as many rollouts as it has proved to be worth.

The posterior of a success rate is Beta(m V + successes, m (1 - V) + failures), m = S/D pooled over the run
(`reliability`). A sample's baseline leaves that sample out, so the policy gradient is unbiased at a fixed k, and a
single sample has one (V). A stop that depends on outcomes biases it a little all the same: see `docs/estimators.md`
for the measured size, and `advantage_samples` for the remedy. Outcomes between the bounds are taken as fractions of a
success, which overstates their variance.

Once the run has dropped its prior, the running mean stands in for V, with the strength that it has itself.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.baselines.base import Baselines
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability


class EmpiricalBayes:
    """`b = (m V + sum(y)) / (m + k)`, and `b_i = (m V + sum(y) - y_i) / (m + k - 1)`."""

    name: ClassVar[str] = "empirical_bayes"
    drops_prior: ClassVar[bool] = True

    def __call__(self, groups: Groups, reliability: Reliability) -> Baselines:
        """Return posterior means and standard deviations; `trusted` says whether the run still uses V itself."""
        strength = reliability.strength
        prior = reliability.prior_in_use(groups.prior)
        size = strength + groups.sizes
        value = (strength * prior + groups.sums) / size
        owner = groups.owner
        others = (strength * prior + groups.sums)[owner] - groups.outcomes
        return Baselines(
            value=np.clip(value, 0.0, 1.0),
            per_sample=np.clip(others / (size[owner] - 1.0), 0.0, 1.0),
            weight=groups.sizes / size,
            trusted=np.full(len(groups), reliability.prior_usable),
            strength=np.full(len(groups), strength),
            standard_error=np.sqrt(np.maximum(value * (1.0 - value), 0.0) / (size + 1.0)),
        )
