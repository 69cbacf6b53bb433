"""The fusion of V0.5 (arXiv 2603.10848), exactly: prior and group mean weighted by a plug-in squared bias.

On the unit scale the noise bound is `s2 = 1/(4k)`, the squared bias `D = max(0, (ybar - V)^2 - s2)`, the weight of the
mean `w = D / (D + s2)`. So the prior is rejected (w > 0) exactly when `|ybar - V| > 1/(2 sqrt k)`, and the bias of the
baseline is at most that. As in the paper one baseline serves the whole group, which each sample therefore sees itself
in; the prior is used whatever the run has learned about it.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.baselines.base import Baselines
from rollout_budget.groups import Groups
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import MAX_STRENGTH, Reliability


def plug_in(groups: Groups) -> tuple[FloatArray, FloatArray]:
    """Return the noise bound `s2` and the squared bias `D` of each group, shape (G,); both 1/4 and 0 where k = 0."""
    noise = 0.25 / np.maximum(groups.sizes, 1)
    gap = np.where(groups.sizes > 0, groups.means - groups.prior, 0.0)
    return noise, np.maximum(0.0, gap**2 - noise)


class V05:
    """`b = w ybar + (1 - w) V` with `w = D / (D + s2)`; V where k = 0."""

    name: ClassVar[str] = "v05"
    drops_prior: ClassVar[bool] = False

    def __call__(self, groups: Groups, reliability: Reliability) -> Baselines:
        """Return the fused values; `standard_error` is the paper's plug-in `sqrt(s2 D / (s2 + D))`, 0 where accepted."""
        del reliability  # the paper learns nothing across groups
        noise, bias = plug_in(groups)
        weight = bias / (bias + noise)
        means = np.where(groups.sizes > 0, groups.means, groups.prior)
        value = weight * means + (1.0 - weight) * groups.prior
        return Baselines(
            value=value,
            per_sample=value[groups.owner],
            weight=weight,
            trusted=weight == 0.0,
            strength=np.minimum(MAX_STRENGTH, 0.25 / np.maximum(bias, 0.25 / MAX_STRENGTH)),
            standard_error=np.sqrt(noise * weight),
        )
