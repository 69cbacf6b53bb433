"""Success counts and a normal law of what lies beneath: rate = Phi(latent), so that rates stay in [0, 1]. Pure.

The latent quantity of a prompt is on the probit scale. What `successes` out of `trials` say about it is no normal law,
least of all where all succeed or none does. Here each count is replaced by the normal observation that has the same
effect: with a normal law N(m, v) of latents before the count, that observation leads to the same mean and variance
afterwards (one step of expectation propagation from the common law; Minka, 2001; Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, section 3.6). On real outcomes further steps changed no figure, and one step
keeps an observation a function of its own count alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr, owens_t

from rollout_budget.outcomes import FloatArray

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
"""Of Gauss-Hermite quadrature around the mode of a log-concave law: latents are right to 0.01 for any count and law."""
NEWTON_STEPS = 30
"""Bound on steps to that mode; quadratic convergence takes about six."""
PRIOR_ROWS = 4.0
"""Cells that the law before any evidence counts for: N(0, 1), under which every rate is equally likely."""
LAW_STEPS = 12
"""Steps of expectation maximisation for the law of latents; further ones moved it by less than its own error."""
VARIANCE = (0.1, 9.0)
"""Bounds of the latents' variance: prompts that hardly differ, and prompts that all but fail or succeed for good."""
SMALLEST_GAIN = 1e-6
"""A count that says less, as share of the precision before it, counts as this much."""


@dataclass(frozen=True, slots=True)
class Law:
    """Normal law of latents over prompts."""

    mean: float = 0.0
    variance: float = 1.0


@dataclass(frozen=True, slots=True)
class Observations:
    """Normal observations of latents: values and the variances of their noise, both of shape (n,)."""

    values: FloatArray
    noise: FloatArray


def observe(successes: FloatArray, trials: FloatArray, law: Law) -> Observations:
    """Return the observations that stand for n counts, both arrays of shape (n,); successes may be fractional."""
    (done, of), back = _distinct(successes, trials)
    means, variances = posterior(done, of, law)
    gain = np.maximum(law.variance / variances - 1, SMALLEST_GAIN)  # precision of the count, as a share of the law's
    noise = law.variance / gain
    values = means + (means - law.mean) / gain
    return Observations(values[back], noise[back])


def posterior(successes: FloatArray, trials: FloatArray, law: Law) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance of the latent after each count, of shape (n,)."""
    mode, curvature = _mode(successes, trials, law)
    points = mode[:, None] + NODES / np.sqrt(curvature)[:, None]
    logs = _log_joint(points, successes[:, None], trials[:, None], law) + NODES**2 / 2
    weights = np.exp(logs - logs.max(axis=1, keepdims=True)) * WEIGHTS
    weights /= weights.sum(axis=1, keepdims=True)
    means = (weights * points).sum(axis=1)
    return means, (weights * np.square(points - means[:, None])).sum(axis=1)


def law_of(successes: FloatArray, trials: FloatArray) -> Law:
    """Return the law of latents under which the counts are most likely, shrunk to N(0, 1)."""
    (done, of), back = _distinct(successes, trials)
    counts = np.bincount(back, minlength=done.size)
    total = counts.sum() + PRIOR_ROWS
    law = Law()
    for _ in range(LAW_STEPS):
        if not done.size:
            break
        means, variances = posterior(done, of, law)
        mean = float(counts @ means) / total
        square = counts @ (variances + np.square(means - mean)) + PRIOR_ROWS * (1 + mean**2)
        law = Law(mean, float(np.clip(square / total, *VARIANCE)))
    return law


def rates(means: FloatArray, variances: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance of Phi(latent) for normal latents, in closed form (Owen, 1980, nos. 10,010.8 and 20,010.4).

    E[Phi^2] = Phi(h) - 2 T(h, 1 / sqrt(1 + 2 v)) with h = mean / sqrt(1 + v) and Owen's T.
    """
    bound = means / np.sqrt(1 + variances)
    first = ndtr(bound)
    second = first - 2 * owens_t(bound, 1 / np.sqrt(1 + 2 * variances))
    return first, np.maximum(second - np.square(first), 0.0)


def _distinct(successes: FloatArray, trials: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return the different counts, shape (2, d), and where each of the n is among them: real counts repeat a lot."""
    pairs, back = np.unique(np.stack([successes, trials]), axis=1, return_inverse=True)
    return pairs, back.reshape(-1)


def _log_joint(points: FloatArray, successes: FloatArray, trials: FloatArray, law: Law) -> FloatArray:
    fit = successes * log_ndtr(points) + (trials - successes) * log_ndtr(-points)
    joint: FloatArray = fit - np.square(points - law.mean) / (2 * law.variance)
    return joint


def _mode(successes: FloatArray, trials: FloatArray, law: Law) -> tuple[FloatArray, FloatArray]:
    """Return where the joint law of latent and count is highest, and its curvature there."""
    failures = trials - successes
    at = np.zeros(successes.size)
    curvature = np.full(successes.size, 1 / law.variance)
    for _ in range(NEWTON_STEPS):
        up, down = _hazard(at), _hazard(-at)
        slope = successes * up - failures * down - (at - law.mean) / law.variance
        curvature = successes * up * (up + at) + failures * down * (down - at) + 1 / law.variance
        step = slope / curvature
        at = at + np.clip(step, -1.0, 1.0)
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    return at, curvature


def _hazard(points: FloatArray) -> FloatArray:
    """Return phi / Phi, the slope of log Phi."""
    ratio: FloatArray = np.exp(-np.square(points) / 2 - 0.5 * np.log(2 * np.pi) - log_ndtr(points))
    return ratio
