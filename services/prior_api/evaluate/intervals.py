"""Whether counts lie where a Beta law of the success rate says they would, without a normal law's help. Pure.

A value v with standard error e stands for the Beta law of that mean and spread; y of n outcomes then follow the
Beta-binomial law. Its counts are few, so an interval of exactly 50% does not exist. The probability integral transform
spreads each count evenly over the piece of [0, 1] that the law gives it (the non-randomised transform of Czado, Gneiting
and Held, Biometrics 65, 2009), and the share of that piece within the central 50% counts: exactly one half on average
if the law is right, whatever the number of trials.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, gammaln

from rollout_budget.outcomes import FloatArray

EDGE = 1e-4
"""Values are kept this far from 0 and 1, where a Beta law has no spread."""
STRENGTH = (1e-3, 1e6)
"""Bounds of the Beta law's pseudo-rollouts: standard errors beyond what a rate can have, and errors of zero."""


def covered(
    values: FloatArray, errors: FloatArray, successes: FloatArray, trials: NDArray[np.int_], levels: Sequence[float]
) -> list[float]:
    """Return the share of counts within the central interval of each nominal level; all arrays of shape (n,).

    Successes that are no whole numbers (partial credit) count as the nearest one.
    """
    below, upto = cumulative(values, errors, np.round(successes).astype(int), trials)
    shares = []
    for level in levels:
        low, high = (1 - level) / 2, (1 + level) / 2
        inside = np.maximum(np.minimum(upto, high) - np.maximum(below, low), 0.0)
        shares.append(float((inside / np.maximum(upto - below, 1e-300)).mean()))
    return shares


def cumulative(
    values: FloatArray, errors: FloatArray, successes: NDArray[np.int_], trials: NDArray[np.int_]
) -> tuple[FloatArray, FloatArray]:
    """Return the chances of fewer than `successes` and of at most that many, each of shape (n,)."""
    means = np.clip(values, EDGE, 1 - EDGE)
    strength = np.clip(means * (1 - means) / np.maximum(np.square(errors), 1e-12) - 1, *STRENGTH)
    a, b = means * strength, (1 - means) * strength
    below, upto = np.empty(means.size), np.empty(means.size)
    for count in np.unique(trials):
        places = np.flatnonzero(trials == count)
        grid = np.arange(count + 1)
        ways = gammaln(count + 1) - gammaln(grid + 1) - gammaln(count - grid + 1)
        one, other = a[places, None], b[places, None]
        chances = np.exp(ways + betaln(grid + one, count - grid + other) - betaln(one, other))
        sums = np.concatenate([np.zeros((places.size, 1)), chances.cumsum(axis=1)], axis=1)
        sums /= sums[:, -1:]
        below[places] = sums[np.arange(places.size), successes[places]]
        upto[places] = sums[np.arange(places.size), successes[places] + 1]
    return below, upto
