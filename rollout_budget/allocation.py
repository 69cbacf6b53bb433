"""How many further rollouts each group gets, for a price or under a cap, from the worth curves of a stopping rule.

Both questions have one answer shape: all rollouts worth more than a threshold. For a price the threshold is given; for
a cap it is found by bisection. As each curve falls, taking the most worthy rollouts first is optimal over all groups.
Vectorised; pure.
"""

from __future__ import annotations

import numpy as np

from rollout_budget.groups import IntArray
from rollout_budget.stopping.worth import SMALLEST_WORTH, Worth


def wanted(worth: Worth, price: float) -> IntArray:
    """Return how many further rollouts of each group are worth more than `price` each, shape (G,), at most `most`.

    Rules that are not priced want `most`.

    Args:
        worth: curves on the unit scale.
        price: squared error that a rollout must save, unit scale, finite, >= 0.
    """
    return worth.more_than(price, worth.most) if worth.priced else worth.most.copy()


def share(worth: Worth, wanted: IntArray, cap: int) -> IntArray:
    """Return at most `wanted` per group, in all exactly `min(cap, sum(wanted))`, those worth most first.

    Equal worth is settled by position: earlier groups first. A negative cap grants nothing.
    """
    cap = max(cap, 0)
    if cap >= int(wanted.sum()):
        return wanted.copy()
    low, high = -1.0, worth.highest
    above = -1
    while above != cap and (middle := _between(low, high)) is not None:
        above = int(worth.more_than(middle, wanted).sum())
        low, high = (middle, high) if above > cap else (low, middle)
    certain = worth.more_than(high, wanted)
    tied = (wanted if low < 0.0 else worth.more_than(low, wanted)) - certain
    before = np.cumsum(tied) - tied
    granted: IntArray = certain + np.clip(cap - int(certain.sum()) - before, 0, tied)
    return granted


def _between(low: float, high: float) -> float | None:
    """Return a threshold strictly between two, halving the number of floats between them; None if there is none.

    Non-negative floats sort like their bits, so no more than 64 steps lead to two neighbours.
    """
    if low < 0.0:
        return SMALLEST_WORTH if high > SMALLEST_WORTH else None
    first, last = np.array([low, high]).view(np.int64).tolist()
    middle = np.array([first + (last - first) // 2], dtype=np.int64)
    return float(middle.view(np.float64)[0]) if last - first > 1 else None
