"""The stops of Reinforce-Ada (arXiv 2510.04996, Algorithm 1): rounds of rollouts until a prompt has shown its signal.

`reinforce_ada_positive` stops a group at its first positive outcome, `reinforce_ada_balanced` once it has half of the
samples that the paper keeps of each kind. The paper draws rounds of 8, at most 4, and keeps 4 samples, with a baseline
from all that were drawn; here the first round is `k_init`, those after it are of 8, `k_max` bounds the group, and which
samples enter a loss is left to the trainer. An outcome above the middle of the range is positive. The price plays no
part. The stop depends on outcomes, so it biases the gradient of any loss that averages within groups.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.groups import Groups, IntArray
from rollout_budget.reliability import Reliability
from rollout_budget.stopping.worth import Curve

ROUND = 8
"""Rollouts of one round, as in the paper."""
KEPT = 4
"""Samples that the paper keeps per prompt; half of them of each kind make a group balanced."""
POSITIVE = 0.5
"""An outcome above this, on the unit scale, is positive."""


class ReinforceAdaPositive:
    """Stop at the first positive outcome."""

    name: ClassVar[str] = "reinforce_ada_positive"
    pooled: ClassVar[bool] = False
    refills: ClassVar[bool] = False
    positives: ClassVar[int] = 1
    negatives: ClassVar[int] = 0

    def __init__(self, size: int = ROUND) -> None:
        """Take the size of a round, >= 1."""
        self._round = size

    def worth(self, groups: Groups, reliability: Reliability, k_max: int) -> Curve:
        """Return a round for every group that has not shown its signal; under a cap the smallest groups come first."""
        del reliability  # a stop on a group's own outcomes
        positive = np.bincount(groups.owner, groups.outcomes > POSITIVE, len(groups))
        shown = (positive >= self.positives) & (groups.sizes - positive >= self.negatives)
        left = np.maximum(k_max - groups.sizes, 0)
        most: IntArray = np.where(shown, 0, np.minimum(left, self._round)).astype(np.int64)
        return Curve(scale=np.ones(len(groups)), size=groups.sizes.astype(np.float64) + 1.0, most=most, priced=False)

    def first(self, k_init: int, k_max: int) -> int:
        """Return `k_init`, or a whole round for `auto` (0), at most `k_max`."""
        return min(k_init or self._round, k_max)


class ReinforceAdaBalanced(ReinforceAdaPositive):
    """Stop at two positive and two negative outcomes."""

    name: ClassVar[str] = "reinforce_ada_balanced"
    positives: ClassVar[int] = KEPT // 2
    negatives: ClassVar[int] = KEPT // 2
