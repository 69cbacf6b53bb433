"""Stop when the posterior variance of the success rate falls too slowly to pay for rollouts.

With n = m + k pseudo-rollouts and posterior mean q the variance is `v = q (1 - q) / (n + 1)`; after j further rollouts
its expectation is `v n / (n + j)`, so the j-th saves `v n / ((n + j - 1)(n + j))` whatever the others turn out to be.
That is known before any is drawn, so a whole wave is asked for at once; at k = 0 the same formula sizes the first wave
by trust (`k_init` "auto"). Source: method of this project; the Beta law as in `empirical_bayes`.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.baselines.empirical_bayes import EmpiricalBayes
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.stopping.worth import Curve


class PosteriorVariance:
    """Ask for all rollouts whose expected saving exceeds their price, in one wave."""

    name: ClassVar[str] = "posterior_variance"
    pooled: ClassVar[bool] = False
    refills: ClassVar[bool] = False

    def worth(self, groups: Groups, reliability: Reliability, k_max: int) -> Curve:
        """Return curves of `size` n and `scale` v n, `most` what is left up to `k_max`."""
        posterior = EmpiricalBayes()(groups, reliability)
        size = posterior.strength + groups.sizes
        return Curve(scale=posterior.standard_error**2 * size, size=size, most=np.maximum(k_max - groups.sizes, 0))

    def first(self, k_init: int, k_max: int) -> int | None:
        """Return `k_init`, at most `k_max`; None for `auto` (0)."""
        return min(k_init, k_max) if k_init else None
