"""The allocation of VIP (arXiv 2602.01601): gradient variance of a whole batch least under a total of rollouts.

With a = p (1 - p) from a predicted success rate, the variance of the leave-one-out (RLOO) gradient of a prompt with n
rollouts goes with a / (n - 1); VIP minimises the sum over prompts for a total of B rollouts, n between bounds (4 and 32
in the paper). The objective is convex, so the greedy choice by its falls a / ((n - 1) n) is optimal. The prediction is
V; the bounds are 2, the fewest that the objective is defined for, and `k_max`; B is `k_init` per group on average.
One wave: nothing is asked for after it.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import Reliability
from rollout_budget.stopping.worth import Tabulated

AVERAGE = 8
"""Rollouts per group on average where `k_init` is `auto`: the smaller budget of the paper."""
FEWEST = 2
"""Rollouts that every group gets before any gets more."""
REQUIRED = 1e6
"""Worth of the first of the `FEWEST` rollouts, far above any computed one; the next is worth half of it."""


class OneWave:
    """A single joint wave, shared by what each rollout gains under the predicted rates: `FEWEST` for all come first."""

    pooled: ClassVar[bool] = True
    refills: ClassVar[bool] = False

    @staticmethod
    def gains(p: FloatArray, drawn: IntArray) -> FloatArray:
        """Return the worth of one more rollout after `drawn`, shape (J,), at rates `p`, shape (G, 1): shape (G, J)."""
        raise NotImplementedError

    def worth(self, groups: Groups, reliability: Reliability, k_max: int) -> Tabulated:
        """Return the table of gains; groups that have outcomes ask for no more, the run's reliability plays no part."""
        del reliability
        gains = self.gains(groups.prior[:, None], np.arange(FEWEST, max(k_max, FEWEST)))
        required = np.broadcast_to(REQUIRED / np.arange(1, FEWEST + 1), (len(groups), FEWEST))
        table = np.concatenate([required, gains], axis=1)[:, :k_max]
        return Tabulated(table, np.where(groups.sizes == 0, table.shape[1], 0).astype(np.int64), priced=False)

    def first(self, k_init: int, k_max: int) -> int:
        """Return the average over the batch."""
        return min(k_init or AVERAGE, k_max)


class Vip(OneWave):
    """Share `k_init` rollouts per group by the fall of `a / (n - 1)`."""

    name: ClassVar[str] = "vip"

    @staticmethod
    def gains(p: FloatArray, drawn: IntArray) -> FloatArray:
        """See `OneWave`."""
        return p * (1.0 - p) / ((drawn - 1.0) * drawn)
