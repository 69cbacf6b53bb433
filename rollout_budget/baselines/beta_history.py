"""The tracker of SPO (arXiv 2509.13232): each prompt's own discounted history as a Beta law, one rollout per prompt.

SPO keeps a and b per prompt, discounts both as the policy moves, subtracts v = a / (a + b) from a single rollout and
counts that rollout afterwards. Here the discounted counts are the prior source's (`prior_model: history`): its V is
a / (a + b), its standard error e gives `a + b = V (1 - V) / e^2 - 1`. Without a standard error the counts are SPO's at
the start; they never exceed those that its largest discount leaves.

A sample's baseline is V, which has seen none of the group, so the gradient is unbiased for any k and, in a loss that
sums over samples, under any stop. The value of a group is the posterior with its own outcomes, what the tracker will say next.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.baselines.base import Baselines
from rollout_budget.groups import Groups
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import MIN_STRENGTH, Reliability

SMALLEST_DISCOUNT = 0.875
LARGEST_DISCOUNT = 0.96
"""SPO's bounds on the factor that counts keep from one meeting to the next."""
STARTING_COUNTS = 1.0 / (1.0 - SMALLEST_DISCOUNT)
"""a + b of a new prompt in SPO: what the smallest discount leaves in the long run (8)."""
MOST_COUNTS = 1.0 / (1.0 - LARGEST_DISCOUNT)
"""a + b that the largest discount leaves in the long run (25)."""


def counts(groups: Groups) -> FloatArray:
    """Return a + b of each prompt, shape (G,), in [`MIN_STRENGTH`, `MOST_COUNTS`]."""
    known = np.isfinite(groups.prior_error)
    squared = np.where(known, groups.prior_error, 1.0) ** 2
    variance = groups.prior * (1.0 - groups.prior)
    stated = variance / np.maximum(squared, variance / (1.0 + MOST_COUNTS) + 1e-300) - 1.0
    stated = np.where(variance > 0.0, stated, MOST_COUNTS)
    return np.clip(np.where(known, stated, STARTING_COUNTS), MIN_STRENGTH, MOST_COUNTS)


class BetaHistory:
    """`b_i = V = a / (a + b)`; the group's value is `(a + sum(y)) / (a + b + k)`."""

    name: ClassVar[str] = "beta_history"
    drops_prior: ClassVar[bool] = False

    def __call__(self, groups: Groups, reliability: Reliability) -> Baselines:
        """Return posterior means and standard deviations of each prompt's own Beta law."""
        del reliability  # a prompt's own history only
        strength = counts(groups)
        size = strength + groups.sizes
        value = np.clip((strength * groups.prior + groups.sums) / size, 0.0, 1.0)
        return Baselines(
            value=value,
            per_sample=groups.prior[groups.owner],
            weight=groups.sizes / size,
            trusted=np.ones(len(groups), dtype=np.bool_),
            strength=strength,
            standard_error=np.sqrt(value * (1.0 - value) / (size + 1.0)),
        )
