"""The allocation of Knapsack RL (arXiv 2509.25849): most expected information of a whole batch for a total of rollouts.

The value of N rollouts of a prompt with success rate p is `(1 - p^N - (1-p)^N) p (1-p)^2`: the chance that its outcomes
differ, times the gain of an update. From N = 2 on its rises `(p^N (1-p) + (1-p)^N p) p (1-p)^2` fall with N, so the
greedy choice solves the knapsack. The paper takes p from the last epoch and N between 2 and 128, and gives leftovers to
prompts with p = 0; here p is V, N between 2 and `k_max`, the total `k_init` per group on average, and leftovers go to
the prompts of low V, evenly. One wave: nothing is asked for after it.
"""

from __future__ import annotations

from typing import ClassVar

from rollout_budget.groups import IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.stopping.vip import OneWave

LEFTOVER = 1e-30
"""Worth of a rollout that adds no value, at V = 0 and N = 1: below any value, so it orders leftovers alone."""


class Knapsack(OneWave):
    """Share `k_init` rollouts per group by the rise of the value."""

    name: ClassVar[str] = "knapsack"

    @staticmethod
    def gains(p: FloatArray, drawn: IntArray) -> FloatArray:
        """See `OneWave`; what adds no value is ordered by `LEFTOVER`."""
        rises = (p**drawn * (1.0 - p) + (1.0 - p) ** drawn * p) * p * (1.0 - p) ** 2
        return rises + LEFTOVER * (1.0 - p) / drawn
