"""Ours with one part taken out or replaced, for the ablation. Each differs from the product in what its name says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from rollout_budget.baselines import BaselineEstimator, Baselines
from rollout_budget.groups import Groups
from rollout_budget.law import LearnedLaw
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import MAX_STRENGTH, MIN_STRENGTH, Reliability
from rollout_budget.stopping import Curve

VERSIONS_HALF_LIFE = 16.0
"""Policy versions after which groups count half, where versions discount them instead of later groups."""


@dataclass(frozen=True)
class NotRecalibrated(LearnedLaw):
    """V is taken as it is said."""

    def calibrated(self, prior: FloatArray, sums: FloatArray, sizes: FloatArray, factor: float) -> NotRecalibrated:
        """Learn no bias."""
        del prior, sums, sizes, factor
        return self


@dataclass(frozen=True)
class NoShape(LearnedLaw):
    """The mixture alone: no shape of its own at any V."""

    @cached_property
    def table(self) -> FloatArray:
        """See `LearnedLaw`."""
        return LearnedLaw({}, self.seen, self.means, self.shares, self.dispersion).table


@dataclass(frozen=True)
class FixedShares(LearnedLaw):
    """The shares of the start for ever: what is learned is the bias, and the shape at each V."""

    def refitted(self) -> FixedShares:
        """Leave the shares."""
        return self


def first_waves(state: Reliability, first: Groups, whole: Groups, version: int) -> Reliability:
    """Let first waves alone teach."""
    del whole, version
    return state.update(first)


def by_version(state: Reliability, first: Groups, whole: Groups, version: int) -> Reliability:
    """Let versions discount what the law was learned from, not the number of later groups."""
    del version
    state = state.calibrate(first)
    if state.learned is None:
        return state
    factor = 0.5 ** (1 / VERSIONS_HALF_LIFE)
    sizes = whole.sizes.astype(np.float64)
    learned = state.learned.learned(whole.prior, whole.sums, sizes, factor, state.dispersion)
    return replace(state, learned=learned)


def conjugate(groups: Groups, prior: FloatArray, strength: FloatArray, *, trusted: bool) -> Baselines:
    """Return posterior means and standard deviations under Beta(m V, m (1 - V)), m of shape (G,)."""
    size, mass, owner = strength + groups.sizes, strength * prior + groups.sums, groups.owner
    value = np.clip(mass / size, 0.0, 1.0)
    return Baselines(
        value=value,
        per_sample=np.clip((mass[owner] - groups.outcomes) / (size[owner] - 1.0), 0.0, 1.0),
        weight=groups.sizes / size,
        trusted=np.full(len(groups), trusted),
        strength=strength,
        standard_error=np.sqrt(value * (1.0 - value) / (size + 1.0)),
    )


class OwnError:
    """The prior's own standard error says how strong it is: `m = V (1 - V) / se^2 - 1` for each prompt."""

    name: ClassVar[str] = "own_error"
    drops_prior: ClassVar[bool] = False

    def __call__(self, groups: Groups, reliability: Reliability) -> Baselines:
        """Return posterior means under Beta(m V, m (1 - V)); the run's m where no standard error is known."""
        strength = own_strength(groups, reliability)
        return conjugate(groups, groups.prior, strength, trusted=True)


class ConjugateStop:
    """The stop of an estimator of that kind: the fall of its posterior's variance."""

    name: ClassVar[str] = "conjugate"
    pooled: ClassVar[bool] = False
    refills: ClassVar[bool] = False

    def __init__(self, estimator: BaselineEstimator) -> None:
        """Take the estimator whose posterior it is."""
        self._estimator = estimator

    def worth(self, groups: Groups, reliability: Reliability, k_max: int) -> Curve:
        """Return curves of `size` m + k and `scale` v (m + k)."""
        posterior = self._estimator(groups, reliability)
        size = posterior.strength + groups.sizes
        return Curve(posterior.standard_error**2 * size, size, np.maximum(k_max - groups.sizes, 0))

    def first(self, k_init: int, k_max: int) -> int | None:
        """Return `k_init`, at most `k_max`; None for `auto` (0)."""
        return min(k_init, k_max) if k_init else None


def own_strength(groups: Groups, reliability: Reliability) -> FloatArray:
    """Return m of each group, shape (G,)."""
    spread = groups.prior * (1.0 - groups.prior)
    own = np.divide(spread, groups.prior_error**2, out=np.zeros(len(groups)), where=groups.prior_error > 0) - 1.0
    known: FloatArray = np.where(np.isnan(groups.prior_error), reliability.strength, own)
    return np.clip(known, MIN_STRENGTH, MAX_STRENGTH)
