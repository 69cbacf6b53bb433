"""James-Stein shrinkage of a group's mean to those of other prompts (arXiv 2511.03710, "Shrinking the Variance").

The two-level leave-one-out baseline of the paper:

    b_ij = (1 - l_i) mu_i^{-j} + l_i mean_{h != i} mu_h,    l_i = (n-1)/n  v_{-i} / (v_{-i} + s_{-i})

with n groups, mu_i^{-j} the mean of a sample's siblings, v_{-i} the noise of a mean (within-group variance over k) and
s_{-i} the variance of means, both over the other groups. A sample's baseline never sees it, so the policy gradient is
unbiased at a fixed k. The other prompts are those of the same call; nothing is learned across calls, and V serves only
where there is nothing else: no outcomes, or a lone singleton. A singleton among others has their mean as its baseline.

The paper has groups of one size; here v_{-i} is the pooled variance over the group's own k, the same for equal sizes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.baselines.base import Baselines
from rollout_budget.baselines.leave_one_out import LeaveOneOut
from rollout_budget.groups import Groups
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import MAX_STRENGTH, Reliability

NEGLIGIBLE_VARIANCE = 1e-12
"""v + s that only rounding leaves: the other prompts then say nothing about how far to shrink."""


class JamesStein:
    """`b_ij = (1 - l_i) mu_i^{-j} + l_i` times the mean of the other groups."""

    name: ClassVar[str] = "james_stein"
    drops_prior: ClassVar[bool] = True

    def __call__(self, groups: Groups, reliability: Reliability) -> Baselines:
        """Return shrunk means; `weight` is 1 - l, `strength` the rollouts that the other groups count for."""
        target, shrinkage = _others(groups)
        whole = LeaveOneOut()(groups, reliability)
        owner = groups.owner
        lone = (groups.sizes == 1) & np.isfinite(target)
        of_sample = np.where(lone, 1.0, shrinkage)[owner]
        aim = np.where(np.isfinite(target), target, 0.0)
        pull = shrinkage / np.maximum(1.0 - shrinkage, 1.0 / (1.0 + MAX_STRENGTH))
        return Baselines(
            value=np.clip((1.0 - shrinkage) * whole.value + shrinkage * aim, 0.0, 1.0),
            per_sample=np.clip((1.0 - of_sample) * whole.per_sample + of_sample * aim[owner], 0.0, 1.0),
            weight=np.where(groups.sizes > 0, 1.0 - shrinkage, 0.0),
            trusted=groups.sizes == 0,
            strength=np.minimum(groups.sizes * pull, MAX_STRENGTH),
            standard_error=whole.standard_error * np.sqrt(1.0 - shrinkage),
        )


def _others(groups: Groups) -> tuple[FloatArray, FloatArray]:
    """Return the mean of the other groups' means, NaN where there are none, and l; both of shape (G,)."""
    seen, paired = groups.sizes > 0, groups.sizes > 1
    means = np.where(seen, groups.means, 0.0)
    variances = np.where(paired, groups.sample_variances, 0.0)
    count = int(seen.sum())
    others, pairs = count - seen, int(paired.sum()) - paired
    target = np.full(len(groups), np.nan)
    np.divide(means.sum() - means, others, out=target, where=others > 0)
    squares = ((means**2).sum() - means**2) / np.maximum(others, 1)
    spread = np.where(others > 0, np.maximum(squares - np.where(others > 0, target, 0.0) ** 2, 0.0), 0.0)
    within = np.maximum(variances.sum() - variances, 0.0) / np.maximum(pairs, 1)
    noise = within / np.maximum(groups.sizes, 1)
    known = seen & (pairs > 0) & (noise + spread > NEGLIGIBLE_VARIANCE)
    share = np.zeros(len(groups))
    np.divide(noise, noise + spread, out=share, where=known)
    return target, (max(count - 1, 0) / max(count, 1)) * share
