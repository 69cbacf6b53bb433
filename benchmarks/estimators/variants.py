"""Variants of our estimator and its stop, for the ablation. Register one in `VARIANTS` to see it in `--ablation`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from benchmarks.estimators.laws import (
    ConjugateStop,
    FixedShares,
    NoShape,
    NotRecalibrated,
    OwnError,
    by_version,
    conjugate,
    first_waves,
)
from rollout_budget import baselines, stopping
from rollout_budget.baselines import BaselineEstimator, Baselines
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.stopping import StoppingRule


def learn(state: Reliability, first: Groups, whole: Groups, version: int) -> Reliability:
    """Take in a batch drawn under policy `version`: its first waves, and its groups with all their outcomes."""
    del version
    return state.calibrate(first).learn(whole)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to use the prior.

    Attributes:
        name: how it is called in the table; what differs from the product.
        estimator: as registered in `baselines`, or another.
        stopping: as registered in `stopping`, or another.
        start: what a run knows at its start.
        learn: how it learns from a batch, as `learn` above; the number of the batch stands for the policy version.
    """

    name: str
    estimator: BaselineEstimator
    stopping: StoppingRule
    start: Callable[[], Reliability] = Reliability
    learn: Callable[[Reliability, Groups, Groups, int], Reliability] = learn


class PooledStrength:
    """The first version of ours: `b = (m V + sum(y)) / (m + k)`, m = S/D one for all prompts."""

    name: ClassVar[str] = "pooled_strength"
    drops_prior: ClassVar[bool] = True

    def __call__(self, groups: Groups, reliability: Reliability) -> Baselines:
        """Return posterior means under Beta(m V, m (1 - V))."""
        strength, prior = reliability.strength, reliability.prior_in_use(groups.prior)
        return conjugate(groups, prior, np.full(len(groups), strength), trusted=reliability.prior_usable)


OURS = Variant("as shipped", baselines.get("empirical_bayes"), stopping.get("posterior_variance"))
POOLED = Variant("one strength for all prompts", PooledStrength(), ConjugateStop(PooledStrength()))

VARIANTS: list[Variant] = [
    OURS,
    POOLED,
    replace(OURS, name="V not recalibrated", start=lambda: Reliability(learned=NotRecalibrated())),
    replace(OURS, name="shares not learned", start=lambda: Reliability(learned=FixedShares())),
    replace(OURS, name="no shape of its own", start=lambda: Reliability(learned=NoShape())),
    replace(OURS, name="first waves alone teach", learn=first_waves),
    replace(OURS, name="discount by version", learn=by_version),
    Variant("the prior's own standard error", OwnError(), ConjugateStop(OwnError())),
]
"""What `--ablation` compares; the first is what all others are stated against."""
