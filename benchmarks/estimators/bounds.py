"""Headroom: the best that could be done with the same prior and the same outcomes, or with more knowledge than anyone.

- `BAYES`: the posterior mean of the rate under the joint law of prior and truth (`priors`), known exactly; at a fixed k
  no estimator has a smaller expected squared error.
- `ORACLE`: that estimator, with rollouts handed out by someone who knows every p. With e_n the expected squared error
  after n rollouts, `e_n = sum_s Binomial(s; n, p) (E[p | V, s of n] - p)^2`, a total of k per prompt is given out
  greedily by the steepest average fall `(e_n - e_{n+j}) / j`, at least one rollout each; optimal up to the last step.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

from benchmarks.estimators.families import Family
from benchmarks.estimators.priors import Prior
from benchmarks.estimators.simulate import Final
from benchmarks.estimators.stream import MOST_ROLLOUTS, Stream
from rollout_budget import allocation
from rollout_budget.decisions import PAPER_RANGE
from rollout_budget.groups import IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.stopping import Tabulated

BAYES = "Bayes-optimal"
ORACLE = "oracle allocation"


def posterior_means(law: FloatArray, rates: FloatArray, successes: FloatArray, sizes: FloatArray) -> FloatArray:
    """Return E[p | V, y] from the law given V, shape (G, A), and counts, shape (G,)."""
    with np.errstate(divide="ignore"):
        logs = np.log(law)
        low, high = np.log(np.maximum(rates, 1e-12)), np.log(np.maximum(1.0 - rates, 1e-12))
    logs = logs + successes[:, None] * low + (sizes - successes)[:, None] * high
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    means: FloatArray = (weights @ rates) / weights.sum(axis=1)
    return means


def bayes(family: Family, prior: Prior, stream: Stream, k: int) -> Final:
    """Return the Bayes-optimal values and leave-one-out baselines of groups of `k`."""
    groups = stream.drawn(slice(None), np.full(stream.truth.size, k, dtype=np.int64))
    law = (prior.likelihood * family.atoms.weights)[stream.stage, stream.target]
    sums, size = groups.sums, np.full(len(groups), float(k))
    value = posterior_means(law, family.atoms.rates, sums, size)
    failed = posterior_means(law, family.atoms.rates, np.minimum(sums, k - 1), size - 1)
    succeeded = posterior_means(law, family.atoms.rates, np.maximum(sums - 1, 0), size - 1)
    per_sample = np.where(groups.outcomes > 0.5, succeeded[groups.owner], failed[groups.owner])
    return Final(groups, value, per_sample, np.zeros(len(groups), dtype=np.bool_))


def expected_errors(family: Family, prior: Prior) -> FloatArray:
    """Return e_n of every target for n = 0 to `MOST_ROLLOUTS` in the prior's first stage; shape (n, 17), unit scale."""
    law = prior.likelihood[0] * family.atoms.weights
    truth, rates = family.truth, family.atoms.rates
    errors = np.empty((truth.size, MOST_ROLLOUTS + 1))
    for n in range(MOST_ROLLOUTS + 1):
        means = np.stack(
            [
                posterior_means(law, rates, np.full(truth.size, float(s)), np.full(truth.size, float(n)))
                for s in range(n + 1)
            ],
            axis=1,
        )
        chance = binom.pmf(np.arange(n + 1), n, truth[:, None])
        errors[:, n] = (chance * (means - truth[:, None]) ** 2).sum(axis=1)
    return errors


def oracle(errors: FloatArray, k: int) -> float:
    """Return the mean squared error at `k` rollouts per target on average, {-1, +1} scale."""
    falls = _steepest(errors[:, 1:])
    most: IntArray = np.full(errors.shape[0], falls.shape[1], dtype=np.int64)
    more = allocation.share(Tabulated(falls, most, priced=False), most, (k - 1) * errors.shape[0])
    reached = errors[np.arange(errors.shape[0]), 1 + more]
    return PAPER_RANGE.squared_from_unit(float(reached.mean()))


def _steepest(errors: FloatArray) -> FloatArray:
    """Return the falls of the largest convex curve below each row, shape (n, columns - 1), not negative."""
    falls = np.zeros((errors.shape[0], errors.shape[1] - 1))
    place = np.zeros(errors.shape[0], dtype=np.int64)
    columns = np.arange(errors.shape[1])
    for _ in columns[1:]:
        here = np.take_along_axis(errors, place[:, None], axis=1)
        ahead = columns - place[:, None]
        slope = np.where(ahead > 0, (here - errors) / np.maximum(ahead, 1), -np.inf)
        best = np.where(place < columns[-1], slope.argmax(axis=1), place)
        steep = np.where(place < columns[-1], slope.max(axis=1), 0.0)
        within = (columns[:-1] >= place[:, None]) & (columns[:-1] < best[:, None])
        falls = np.where(within, np.maximum(steep, 0.0)[:, None], falls)
        place = best
    return falls
