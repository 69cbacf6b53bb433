"""A run's choice of prompts: Thompson draws of p scored by p (1 - p), as many prompts as the budget pays for.

The variance of one outcome, p (1 - p), is what a rollout of a prompt can teach a policy gradient: nothing where all
succeed or all fail. It counts per rollout, so the ranking does not depend on how long first waves are.

A ranking scores each prompt by the mean of a few draws. One draw explores for the sake of a later choice as if any
doubt could be resolved; much of it cannot, as prompts may never come again. All draws together, the expected signal,
do not explore at all. `docs/planning.md` has what lies between.

Owns the order of draws and the meaning of the budget; the law is `posterior`'s, the design `sampling`'s. A choice is a
function of its arguments: the same seed chooses the same prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rollout_budget import allocation
from rollout_budget.decisions import Rules, first_wave
from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.planning.posterior import posterior
from rollout_budget.planning.sampling import SHARES, inclusion, ranked, systematic
from rollout_budget.reliability import Reliability

AVERAGED = 4
"""Draws behind a score: from a weak prior 1.5 times the signal of a uniform choice; 1.25 of one draw, 1.6 of 16, whose
weights are worth two thirds as much."""
DRAWS_IN_ALL = 2**19
"""Numbers drawn for one choice: some 60 ms of one core."""
ROUNDING = 1e-9
"""Room for the rounding of a mean of whole numbers: less than one rollout of any budget that a choice can spend."""
MOST_DRAWS = 1024
"""Draws of each rate in a small pool: chances then have a standard error of at most 1/32."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a choice may spend: a number of `groups`, or of `rollouts` in first waves; exactly one is given."""

    groups: int | None = None
    rollouts: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The `n` prompts to open, of `N` candidates.

    Attributes:
        chosen: places of the candidates, in the order of the request, shape (n,).
        propensity: chance that each had to be chosen, shape (n,), in (0, 1].
        weight: importance weight n / (N propensity) of each, shape (n,).
        first: rollouts of each one's first wave, shape (n,), >= 1.
        signal: mean p (1 - p) of every candidate under the posterior, shape (N,).
    """

    chosen: IntArray
    propensity: FloatArray
    weight: FloatArray
    first: IntArray
    signal: FloatArray


def choose(
    rules: Rules,
    groups: Groups,
    reliability: Reliability,
    allowance: Allowance,
    *,
    exploration: float,
    seed: int,
    averaged: int = AVERAGED,
) -> Choice:
    """Choose among candidates, which are groups without outcomes.

    With `groups` so many are chosen, at most all. With `rollouts` as many as their first waves cost in expectation, at
    least one; the sample's waves are then cut to the budget, those rollouts first that are worth least.

    Args:
        rules: the run's settings.
        groups: priors of the candidates, shape (N,), N >= 1.
        reliability: what the run knows of its prior.
        allowance: the budget.
        exploration: share of the choice made uniformly, in (0, 1]; rounded up to 1024ths. 1 ignores the prior.
        seed: fixes all draws.
        averaged: draws behind each score, >= 1.
    """
    ranking, sample = (np.random.default_rng(sequence) for sequence in np.random.SeedSequence(seed).spawn(2))
    shares = min(math.ceil(exploration * SHARES), SHARES)
    rankings = max(min(DRAWS_IN_ALL // len(groups), MOST_DRAWS) // averaged, 1)
    draws = posterior(groups, reliability, rankings * averaged, ranking)
    scores = (draws * (1.0 - draws)).reshape(rankings, averaged, len(groups)).mean(axis=1)
    order = ranked(scores, ranking)
    costs = np.maximum(first_wave(rules, groups, reliability).wanted, 1)
    chances = inclusion(order, _size(allowance, costs[order], shares), shares)
    chosen = np.sort(systematic(chances, sample))
    return Choice(
        chosen=chosen,
        propensity=chances.propensity[chosen],
        weight=chances.weight[chosen],
        first=_first(rules, _some(groups, chosen), reliability, allowance.rollouts),
        signal=scores.mean(axis=0),
    )


def _size(allowance: Allowance, costs: IntArray, shares: int) -> int:
    """Return how many of the candidates to choose; `costs` are their first waves, best first, shape (R, N)."""
    number = int(costs.shape[1])
    if allowance.groups is not None:
        return min(allowance.groups, number)
    mean: FloatArray = costs.mean(axis=0)
    best = np.cumsum(mean)
    uniform = mean.mean() * np.arange(1, number + 1)
    expected = best + (uniform - best) * (shares / SHARES)
    budget = (allowance.rollouts or 1) * (1.0 + ROUNDING)
    affordable = int(np.searchsorted(expected, budget, side="right"))
    return max(affordable, 1)


def _first(rules: Rules, chosen: Groups, reliability: Reliability, rollouts: int | None) -> IntArray:
    """Return the first waves of the chosen, one rollout each at least, and no more than `rollouts` in all."""
    plan = first_wave(rules, chosen, reliability)
    wanted = np.maximum(plan.wanted, 1)
    if rollouts is None:
        return wanted
    one = np.ones(len(chosen), dtype=np.int64)
    return one + allocation.share(plan.worth.beyond(one), wanted - one, rollouts - len(chosen))


def _some(groups: Groups, places: IntArray) -> Groups:
    """Return some of the candidates."""
    none = np.zeros(places.size, dtype=np.int64)
    return Groups(groups.prior[places], groups.prior_error[places], none, np.empty(0))
