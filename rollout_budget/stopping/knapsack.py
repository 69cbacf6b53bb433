"""The allocation of Knapsack RL (arXiv 2509.25849): most expected information of a whole batch for a total of rollouts.

The value of N rollouts of a prompt with success rate p is `(1 - p^N - (1-p)^N) p (1-p)^2`: the chance that its outcomes
differ, times the gain of an update. From N = 2 on its rises `(p^N (1-p) + (1-p)^N p) p (1-p)^2` fall with N, so the
greedy choice solves the knapsack. The paper takes p from the last epoch and N between 2 and 128, and gives leftovers to
prompts with p = 0; here p is V, N between 2 and `k_max`, the total `k_init` per group on average, and leftovers go to
the prompts of low V, evenly. One wave: nothing is asked for after it.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.stopping.vip import AVERAGE, FEWEST, one_wave
from rollout_budget.stopping.worth import Tabulated

LEFTOVER = 1e-30
"""Worth of a rollout that adds no value, at V = 0 and N = 1: below any value, so it orders leftovers alone."""


class Knapsack:
    """Share `k_init` rollouts per group by the rise of the value."""

    name: ClassVar[str] = "knapsack"
    pooled: ClassVar[bool] = True
    refills: ClassVar[bool] = False

    def worth(self, groups: Groups, reliability: Reliability, k_max: int) -> Tabulated:
        """Return the table of rises; the run's reliability plays no part."""
        del reliability
        drawn = np.arange(FEWEST, max(k_max, FEWEST))
        p = groups.prior[:, None]
        rises = (p**drawn * (1.0 - p) + (1.0 - p) ** drawn * p) * p * (1.0 - p) ** 2
        return one_wave(groups, rises + LEFTOVER * (1.0 - p) / drawn, k_max)

    def first(self, k_init: int, k_max: int) -> int:
        """Return the average over the batch."""
        return min(k_init or AVERAGE, k_max)
