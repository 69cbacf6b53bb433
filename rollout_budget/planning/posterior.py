"""What is believed of success rates: draws from their posterior. The one place where the law of p given V is chosen.

Owns nothing but the law; what the draws are used for is `choice`'s business.
"""

from __future__ import annotations

import numpy as np

from rollout_budget.groups import Groups
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import Reliability


def posterior(groups: Groups, reliability: Reliability, number: int, rng: np.random.Generator) -> FloatArray:
    """Return `number` independent draws of each group's success rate, shape (number, G), in [0, 1].

    The law is Beta(m V + successes, m (1 - V) + failures) as in `baselines.empirical_bayes`, with the strength m that
    the run has learned and the prior in use: the running mean once V has proved useless. So a prior that is wrong on
    the whole spreads the draws, and choices by them come near to uniform ones.

    Args:
        groups: priors, and outcomes where there are any, unit scale.
        reliability: what the run knows of its prior.
        number: draws of each rate, >= 1.
        rng: where the draws come from.
    """
    strength, prior = reliability.strength, reliability.prior_in_use(groups.prior)
    successes = strength * prior + groups.sums
    failures = strength * (1.0 - prior) + groups.sizes - groups.sums
    certain = (successes <= 0.0) | (failures <= 0.0)
    draws = rng.beta(np.where(certain, 1.0, successes), np.where(certain, 1.0, failures), (number, len(groups)))
    return np.where(certain, (failures <= 0.0).astype(np.float64), draws)
