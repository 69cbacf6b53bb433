"""Sampling without replacement where every candidate's chance is known exactly, in integers, before the draw.

Thompson draws rank the candidates; how often each is among the first n estimates the chance to give it. The estimate
then *is* the chance, because the sample is drawn by it: systematic sampling along a random order (Madow 1949) has a
fixed size and includes candidate i with probability pi_i, whatever the pi are. So Horvitz-Thompson weights 1 / pi_i are
unbiased even where the posterior is wrong or the draws are few; both only cost efficiency.

With c_i of R draws in which i is among the first n of N, and a share e of the choice made uniformly:

    pi_i = (1 - e) c_i / R + e n / N,        sum of pi_i = n,        e n / N <= pi_i <= 1.

The floor e n / N needs no memory of who was seen when. A candidate that is offered every round is chosen within
N / (e n) rounds in the mean, however wrong its prior is, and no weight n / (N pi_i) exceeds 1 / e.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rollout_budget.groups import IntArray
from rollout_budget.outcomes import FloatArray

SHARES = 1024
"""The uniform share counts in 1024ths, so that probabilities are ratios of integers of one denominator."""
TIE = 1e-12
"""Scores closer than this are ties and fall by lot: p (1 - p) of rates that no run can tell apart."""


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Inclusion probabilities as ratios `units / whole`.

    Attributes:
        units: shape (N,), each in [1, whole], summing to `size` x `whole`.
        whole: the common denominator.
        size: how many candidates a sample holds, n.
    """

    units: IntArray
    whole: int
    size: int

    @property
    def propensity(self) -> FloatArray:
        """Probability of each candidate to be in the sample, shape (N,), in (0, 1]."""
        return self.units / self.whole

    @property
    def weight(self) -> FloatArray:
        """Importance weight n / (N pi_i), shape (N,).

        The mean over a sample of weight x value is unbiased for the mean of the values over all candidates.
        """
        return self.size * (self.whole / self.units) / self.units.size


def ranked(scores: FloatArray, rng: np.random.Generator) -> IntArray:
    """Return the candidates of each row, best first, ties by lot: shape (R, N) to (R, N)."""
    return np.argsort(-(scores + TIE * rng.random(scores.shape)), axis=1).astype(np.int64)


def inclusion(order: IntArray, size: int, shares: int) -> Inclusion:
    """Return the probabilities for samples of `size` from rankings.

    Args:
        order: candidates of each draw, best first, shape (R, N); `R * N * SHARES * size` must stay below 2^63.
        size: n, 1 <= n <= N.
        shares: uniform part of the choice in `SHARES`ths, 1 <= shares <= SHARES.
    """
    draws, candidates = order.shape
    first = np.bincount(order[:, :size].ravel(), minlength=candidates)
    units: IntArray = (SHARES - shares) * candidates * first + shares * draws * size
    return Inclusion(units, SHARES * draws * candidates, size)


def systematic(chances: Inclusion, rng: np.random.Generator) -> IntArray:
    """Draw a sample: the places of its `size` candidates, in the random order in which they were met."""
    order = rng.permutation(chances.units.size)
    return order[picked(chances.units[order], chances.whole, int(rng.integers(chances.whole)))]


def picked(units: IntArray, whole: int, start: int) -> IntArray:
    """Return where the points `start`, `start + whole`, ... fall on candidates laid end to end, each `units` long.

    Each of the `whole` starts is equally likely, and candidate i is hit by exactly `units[i]` of them, never twice.
    """
    ends = np.cumsum(units)
    points = np.arange(start, int(ends[-1]), whole)
    return np.searchsorted(ends, points, side="right").astype(np.int64)
