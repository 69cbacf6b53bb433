"""What is believed of success rates: draws from their posterior. The one place where the law of p given V is chosen.

Owns nothing but the law; what the draws are used for is `choice`'s business.

Without standard errors it is the law that the run has learned (`rollout_budget.law`). A prior that states a standard
error e claims a strength of its own, s = V (1 - V) / e^2 - 1; the law says how strong priors are on the whole. Both are
used: such a prompt has the Beta law with the law's mean at its V and strength c s, where c makes the candidates as
strong together as the law holds them to be. So claims decide which prompts are better known than others, a prompt met
often beside a new one, and outcomes decide how much that is.
"""

from __future__ import annotations

import numpy as np

from rollout_budget.groups import Groups
from rollout_budget.law import EDGE
from rollout_budget.outcomes import FloatArray
from rollout_budget.posterior import Posterior
from rollout_budget.reliability import MAX_STRENGTH, MIN_STRENGTH, Reliability

SMALLEST_ERROR = 1e-3
"""Standard errors below this are taken as this: a claim of a quarter of a million rollouts is none to divide by."""


def posterior(groups: Groups, reliability: Reliability, number: int, rng: np.random.Generator) -> FloatArray:
    """Return `number` independent draws of each candidate's success rate, shape (number, G), in [0, 1].

    Args:
        groups: priors of groups without outcomes, unit scale.
        reliability: what the run knows of its prior.
        number: draws of each rate, >= 1.
        rng: where the draws come from.
    """
    law, none = reliability.law, np.zeros(len(groups))
    draws = law.draw(groups.prior, none, none, rng=rng, draws=number)
    claims = np.isfinite(groups.prior_error)
    if not claims.any():
        return draws
    known = law.posterior(groups.prior[claims], none[claims], none[claims])
    strength = strengths(groups.prior[claims], groups.prior_error[claims], known)
    mean = np.clip(known.mean, EDGE, 1.0 - EDGE)
    draws[:, claims] = rng.beta(strength * mean, strength * (1.0 - mean), (number, mean.size))
    return draws


def strengths(prior: FloatArray, error: FloatArray, known: Posterior) -> FloatArray:
    """Return the pseudo-rollouts that each prior with a standard error counts for, shape (G,).

    Args:
        prior: shape (G,), in [0, 1].
        error: the standard errors they claim, shape (G,), finite.
        known: what the law holds of p at these priors.
    """
    inside = np.clip(prior, EDGE, 1.0 - EDGE)
    spread = inside * (1.0 - inside)
    claimed = np.maximum(spread / np.maximum(error, SMALLEST_ERROR) ** 2 - 1.0, MIN_STRENGTH)
    weight = known.mean * (1.0 - known.mean)
    ratio = _together(known.size, weight) / _together(claimed, weight)
    counted: FloatArray = np.clip(ratio * claimed, MIN_STRENGTH, MAX_STRENGTH)
    return counted


def _together(strength: FloatArray, weight: FloatArray) -> float:
    """Return S/D of all: outcomes' mean variance within prompts over the priors' mean squared error."""
    errors = weight / (strength + 1.0)
    return float((errors * strength).sum() / errors.sum())
