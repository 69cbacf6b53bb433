"""What groups would have drawn at prices that they were not offered. Pure, vectorised, unit scale.

A group's outcomes are replayed wave by wave at each price of a grid. At a price above the real one the group would have
stopped within the outcomes it has, so the answer is exact, given the law. At a lower one it asks for more at some point
than was drawn: that ask is taken as the end, being the number that the law expects to be worth its price.
"""

from __future__ import annotations

import numpy as np

from rollout_budget.decisions import Rules
from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import Reliability

PRICES: FloatArray = 2.0 ** np.arange(-24.0, -1.5, 0.5)
"""The grid, rising by the root of 2. No rollout is worth more than 1/4 on the unit scale, the variance of a coin flip,
so the last price buys what cannot be refused alone; the first is below the worth of the last of 1,024 rollouts."""
MOST_STATES = 2**14
"""Prefixes of groups replayed in one call; of larger batches every m-th group stands for m. Tens of milliseconds."""


def demand(rules: Rules, groups: Groups, reliability: Reliability) -> FloatArray:
    """Return the rollouts that these groups would have drawn in all, first waves included, at each of `PRICES`.

    Falling, or flat, over the prices but for the noise of replayed waves; at least one rollout a group, as a first
    wave is never refused by price.

    Args:
        rules: the run's settings; their price does not matter, the stopping rule is priced.
        groups: all outcomes, in the order in which they were drawn.
        reliability: what the run knows now.
    """
    if not len(groups):
        return np.zeros(PRICES.size)
    stride = -(-int((groups.sizes + 1).sum()) // MOST_STATES)
    thinned = _every(groups, stride)
    states, starts = _prefixes(thinned)
    worth = rules.stopping.worth(states, reliability, rules.k_max)
    asks = np.stack([worth.more_than(price, worth.most) for price in PRICES.tolist()])
    size = rules.stopping.first(rules.k_init, rules.k_max)
    drawn = np.clip(asks[:, starts], 1, rules.k_max) if size is None else np.full((PRICES.size, len(thinned)), size)
    going = drawn <= thinned.sizes
    while going.any():
        more = np.where(going, np.take_along_axis(asks, starts + np.minimum(drawn, thinned.sizes), axis=1), 0)
        drawn = drawn + more
        going = (more > 0) & (drawn <= thinned.sizes)
    total: FloatArray = drawn.sum(axis=1) * (len(groups) / len(thinned))
    return total


def _every(groups: Groups, stride: int) -> Groups:
    """Return every `stride`-th group."""
    if stride == 1:
        return groups
    kept = np.arange(len(groups)) % stride == 0
    return Groups(groups.prior[kept], groups.prior_error[kept], groups.sizes[kept], groups.outcomes[kept[groups.owner]])


def _prefixes(groups: Groups) -> tuple[Groups, IntArray]:
    """Return each group after 0, 1, ... of its outcomes, and where those of each group begin, shape (G,)."""
    counts = groups.sizes + 1
    starts = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(groups)), counts)
    sizes = np.arange(owner.size) - starts[owner]
    first = (np.cumsum(groups.sizes) - groups.sizes)[owner]
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    outcomes = groups.outcomes[np.repeat(first, sizes) + within]
    return Groups(groups.prior[owner], groups.prior_error[owner], sizes, outcomes), starts
