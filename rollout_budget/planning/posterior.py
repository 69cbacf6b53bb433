"""What is believed of success rates: draws from their posterior. The one place where the law of p given V is chosen.

Owns nothing but the law; what the draws are used for is `choice`'s business.

The law is Beta(m V + successes, m (1 - V) + failures), as in `baselines.empirical_bayes`, with the running mean in V's
place once V has proved useless. A prior that states a standard error e claims a strength of its own,
s = V (1 - V) / e^2 - 1; the run knows how strong its priors are on the whole (`Reliability.strength`). Both are used:
m_i = c s_i, where c makes the candidates as strong together as the run's groups have shown. So claims decide which
prompts are better known than others, a prompt met often beside a new one, and outcomes decide how much that is.
"""

from __future__ import annotations

import numpy as np

from rollout_budget.groups import Groups
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import MAX_STRENGTH, MIN_STRENGTH, Reliability

SMALLEST_ERROR = 1e-3
"""Standard errors below this are taken as this: a claim of a quarter of a million rollouts is none to divide by."""


def posterior(groups: Groups, reliability: Reliability, number: int, rng: np.random.Generator) -> FloatArray:
    """Return `number` independent draws of each group's success rate, shape (number, G), in [0, 1].

    Args:
        groups: priors, and outcomes where there are any, unit scale.
        reliability: what the run knows of its prior.
        number: draws of each rate, >= 1.
        rng: where the draws come from.
    """
    prior = reliability.prior_in_use(groups.prior)
    strength = strengths(prior, groups.prior_error, reliability)
    successes = strength * prior + groups.sums
    failures = strength * (1.0 - prior) + groups.sizes - groups.sums
    certain = (successes <= 0.0) | (failures <= 0.0)
    draws = rng.beta(np.where(certain, 1.0, successes), np.where(certain, 1.0, failures), (number, len(groups)))
    return np.where(certain, (failures <= 0.0).astype(np.float64), draws)


def strengths(prior: FloatArray, error: FloatArray, reliability: Reliability) -> FloatArray:
    """Return the pseudo-rollouts that each prior counts for, shape (G,); those that claim nothing count alike.

    Args:
        prior: priors in use, shape (G,).
        error: the standard errors they claim, shape (G,); NaN where there is none.
        reliability: what the run knows of its prior.
    """
    pooled = reliability.strength
    spread = prior * (1.0 - prior)
    claimed = np.maximum(spread / np.maximum(error, SMALLEST_ERROR) ** 2 - 1.0, MIN_STRENGTH)
    known = np.isfinite(claimed) & (spread > 0.0)
    if not (reliability.prior_usable and known.any()):
        return np.full(prior.shape, pooled)
    weight = spread[known] / (claimed[known] + 1.0)
    together = float((weight * claimed[known]).sum() / weight.sum())
    return np.where(known, np.clip(pooled / together * claimed, MIN_STRENGTH, MAX_STRENGTH), pooled)
