"""Groups of a fixed size: `k_max` rollouts in the first wave, whatever they cost and whatever `k_init` says."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.stopping.worth import Curve


class Fixed:
    """Every group gets `k_max` rollouts; under a cap the smallest groups come first, so that it is shared evenly."""

    name: ClassVar[str] = "fixed"
    pooled: ClassVar[bool] = False
    refills: ClassVar[bool] = False

    def worth(self, groups: Groups, reliability: Reliability, k_max: int) -> Curve:
        """Return one curve for all, falling with the size of the group and not priced."""
        del reliability  # a fixed size depends on nothing
        return Curve(
            scale=np.ones(len(groups)),
            size=groups.sizes.astype(np.float64) + 1.0,
            most=np.maximum(k_max - groups.sizes, 0),
            priced=False,
        )

    def first(self, k_init: int, k_max: int) -> int:
        """Return `k_max`: nothing is gained by a second wave that comes for certain."""
        del k_init
        return k_max
