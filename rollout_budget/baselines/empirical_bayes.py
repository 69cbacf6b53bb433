"""Empirical Bayes over the run's groups: a prior counts for what priors like it have proved to be worth.

The value is the posterior mean of the success rate under the law of rates given V that the run has learned (`law`),
or under Beta(m V, m (1 - V)), m = S/D, where D and S were given. A sample's baseline leaves that sample out, so the
policy gradient is unbiased at a fixed k, and a single sample has one (the mean of rates at this V). A stop that depends
on outcomes biases it a little all the same: see `docs/estimators.md` for the measured size, and `advantage_samples`
for the remedy. Source: method of this project.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rollout_budget.baselines.base import Baselines
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability


class EmpiricalBayes:
    """`b = E[p | V, y]`, and `b_i = E[p | V, y without y_i]`; with known m these are `(m V + sum(y)) / (m + k)` alike."""

    name: ClassVar[str] = "empirical_bayes"
    drops_prior: ClassVar[bool] = False

    def __call__(self, groups: Groups, reliability: Reliability) -> Baselines:
        """Return posterior means and standard deviations.

        `strength` is that of the Beta law with the mean and variance that p has before any outcome, `weight` what such
        a law would give the group's mean. `trusted` says whether V as it stands predicts better than the running mean;
        one that does not counts for what the run has learned about it.
        """
        law, sizes, owner, count = reliability.law, groups.sizes.astype(np.float64), groups.owner, len(groups)
        others = np.clip(groups.sums[owner] - groups.outcomes, 0.0, sizes[owner] - 1.0)
        nothing = np.zeros(count)
        known = law.posterior(  # before any outcome, after all, after all but one: asked at once
            np.concatenate([groups.prior, groups.prior, groups.prior[owner]]),
            np.concatenate([nothing, groups.sums, others]),
            np.concatenate([nothing, sizes, sizes[owner] - 1.0]),
        )
        strength, posterior = known.part(0, count).size, known.part(count, 2 * count)
        drawn = sizes / law.dispersion
        return Baselines(
            value=posterior.mean,
            per_sample=known.mean[2 * count :],
            weight=np.divide(drawn, strength + drawn, out=np.zeros(count), where=drawn > 0),
            trusted=np.full(count, reliability.prior_usable),
            strength=strength,
            standard_error=np.sqrt(posterior.variance),
        )
