"""The one-step look-ahead of V0.5 (arXiv 2603.10848), exactly: one more rollout while it pays for itself.

On the {-1, +1} scale the risk is `R(k) = D/(1 + k D) + c k` with the plug-in squared bias D of the group, so a further
rollout pays while `D^2 / ((1 + k D)(1 + (k+1) D)) > c`, which is `1 / ((1/D + k)(1/D + k + 1)) > c`. Squared errors on
the unit scale are a quarter of that. An accepted prior (D = 0) stops the group. One rollout at a time: the next
outcome changes D.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.baselines.v05 import plug_in
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.stopping.worth import Curve

PAPER_K_INIT = 4
"""Rollouts before the first look-ahead, as in the paper; what `auto` means here."""
NEGLIGIBLE_BIAS = 1e-9
"""D on the {-1, +1} scale that only rounding leaves; a rollout is then worth under 1e-18."""


class OneStepLookAhead:
    """Ask for one more rollout while its expected saving exceeds its price."""

    name: ClassVar[str] = "osla"
    pooled: ClassVar[bool] = False
    refills: ClassVar[bool] = False

    def worth(self, groups: Groups, reliability: Reliability, k_max: int) -> Curve:
        """Return curves of `scale` 1/4 and `size` 1/D + k, `most` 1; `scale` 0 where the prior is accepted.

        A group without outcomes has no plug-in: its bias is taken as D = 1, the largest noise of one outcome.
        """
        del reliability  # the paper learns nothing across groups
        bias = np.where(groups.sizes > 0, 4.0 * plug_in(groups)[1], 1.0)
        rejected = bias > NEGLIGIBLE_BIAS
        return Curve(
            scale=np.where(rejected, 0.25, 0.0),
            size=1.0 / np.where(rejected, bias, 1.0) + groups.sizes,
            most=np.clip(k_max - groups.sizes, 0, 1),
        )

    def first(self, k_init: int, k_max: int) -> int:
        """Return `k_init`, or the paper's 4 for `auto` (0), at most `k_max`."""
        return min(k_init or PAPER_K_INIT, k_max)
