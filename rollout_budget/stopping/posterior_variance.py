"""Stop when the posterior variance of the success rate falls too slowly to pay for rollouts.

For any law of p with mean q and variance v, one further outcome lowers the expected variance by `v^2 / (q (1 - q))`:
both answers move the mean, by v/q and v/(1 - q). The Beta law with the same mean and variance has
`n = q (1 - q)/v - 1` pseudo-rollouts and saves the same; after j outcomes its expected variance is `v n/(n + j)`, so the
j-th saves `v n / ((n + j - 1)(n + j))` whatever the others turn out to be. So the first further rollout is priced
exactly, those after it as under that Beta law, and a whole wave can be asked for at once; at k = 0 the same formula
sizes the first wave by trust (`k_init` "auto"). Outcomes between 0 and 1 count for 1/dispersion flips each. Source:
method of this project; the law as in `empirical_bayes`.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.stopping.worth import Curve

SMALLEST_SIZE = 1e-6
"""Pseudo-rollouts of a law that holds p to be 0 or 1 and nothing between: keeps the curve finite."""


class PosteriorVariance:
    """Ask for all rollouts whose expected saving exceeds their price, in one wave."""

    name: ClassVar[str] = "posterior_variance"
    pooled: ClassVar[bool] = False
    refills: ClassVar[bool] = False

    def worth(self, groups: Groups, reliability: Reliability, k_max: int) -> Curve:
        """Return curves of `size` n and `scale` v n, `most` what is left up to `k_max`."""
        law = reliability.law
        posterior = law.posterior(groups.prior, groups.sums, groups.sizes.astype(np.float64))
        size = np.maximum(posterior.size * law.dispersion, SMALLEST_SIZE)
        return Curve(scale=posterior.variance * size, size=size, most=np.maximum(k_max - groups.sizes, 0))

    def first(self, k_init: int, k_max: int) -> int | None:
        """Return `k_init`, at most `k_max`; None for `auto` (0)."""
        return min(k_init, k_max) if k_init else None
