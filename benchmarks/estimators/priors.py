"""Priors to start from, of graded quality. Add one to `PRIORS` to see it everywhere.

Each gives predicted success rates and, where it knows one, a standard error. For the bounds it also states the joint
law with the truth: how likely each rate of the family's law is once V is known (`likelihood`). That is exact for truth
plus noise, by kernel density over V for what was learned from data (each target's own row left out), and flat for
constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from benchmarks.estimators import heads
from benchmarks.estimators.data import TRIALS
from benchmarks.estimators.families import Atoms, Family
from rollout_budget.outcomes import FloatArray
from services.prior_api.heads.base import Float32Array

STAGES = 6
"""Parts of a run between which a prior may change."""
DRIFT = (0.0, 0.0, 0.25, 0.5, 0.75, 1.0)
"""Share of prompts whose V is another prompt's, by stage: good at first, worthless at the end."""
MIXED_NOISE = 0.1
"""Standard deviation of the noise of priors that are right only in part."""
ANTI_NOISE = 0.15


@dataclass(frozen=True, slots=True)
class Material:
    """What a prior may use: the family, a source of randomness, and the features of prompts once they are needed."""

    family: Family
    rng: np.random.Generator
    features: Callable[[], Mapping[str, Float32Array]]


@dataclass(frozen=True, slots=True)
class Prior:
    """Predictions for `n` targets, in one stage or in `STAGES`.

    Attributes:
        values: shape (stages, n).
        errors: standard errors, shape (n,); NaN where they are not known.
        likelihood: of each atom given V, up to a factor, shape (stages, n, A); all ones where V says nothing.
    """

    values: FloatArray
    errors: FloatArray
    likelihood: FloatArray


Maker = Callable[[Material], Prior]


def known(values: FloatArray, likelihood: FloatArray) -> Prior:
    """Return a prior of one stage without standard errors."""
    return Prior(values[None], np.full(values.shape, np.nan), likelihood[None])


def noisy(values: FloatArray, centres: FloatArray, deviation: float) -> FloatArray:
    """Return how likely each V is around each centre, for normal noise clipped to [0, 1]; shape (n, A)."""
    inside = norm.pdf(values[:, None], centres, deviation)
    at_zero, at_one = norm.cdf(-centres / deviation), norm.sf((1.0 - centres) / deviation)
    return np.where(values[:, None] <= 0.0, at_zero, np.where(values[:, None] >= 1.0, at_one, inside))


def blurred(material: Material, rates: FloatArray, deviation: float) -> FloatArray:
    """Return rates with normal noise, clipped to [0, 1]."""
    return np.clip(rates + material.rng.normal(0.0, deviation, rates.size), 0.0, 1.0)


def noisy_truth(deviation: float) -> Maker:
    """Return a prior that misses the truth by normal noise, clipped to [0, 1]."""

    def predict(material: Material) -> Prior:
        values = blurred(material, material.family.truth, deviation)
        return known(values, noisy(values, material.family.atoms.rates, deviation))

    return predict


def anti_correlated(material: Material) -> Prior:
    """Return one minus the truth, with noise."""
    values = blurred(material, 1.0 - material.family.truth, ANTI_NOISE)
    return known(values, noisy(values, 1.0 - material.family.atoms.rates, ANTI_NOISE))


def right_for_half(material: Material) -> Prior:
    """Return the truth for half of the prompts, and another prompt's truth for the rest; with noise."""
    return _swapped(material, (0.5,))


def drifting(material: Material) -> Prior:
    """Return the truth with noise at first, and other prompts' truths for more and more prompts later."""
    return _swapped(material, DRIFT)


def _swapped(material: Material, shares: tuple[float, ...]) -> Prior:
    truth, atoms = material.family.truth, material.family.atoms
    values = blurred(material, truth, MIXED_NOISE)
    others = values[material.rng.permutation(truth.size)]
    turn = material.rng.random(truth.size)
    stages = np.stack([np.where(turn < share, others, values) for share in shares])
    likelihood = []
    for share, seen in zip(shares, stages, strict=True):
        right = noisy(seen, atoms.rates, MIXED_NOISE)
        likelihood.append((1.0 - share) * right + share * (right @ atoms.weights)[:, None])
    return Prior(stages, np.full(truth.shape, np.nan), np.stack(likelihood))


def constant(material: Material) -> Prior:
    """Return one value for every target: the mean rate of the support, or of the family where there is none."""
    family = material.family
    if family.split is None:
        value = float(family.truth.mean())
    else:
        value = family.split.rows.successes[family.split.support].mean() / TRIALS
    return known(np.full(family.truth.size, value), np.ones((family.truth.size, family.atoms.rates.size)))


def service_head(name: str) -> Maker:
    """Return the prior service's own head of that name, fitted on the support; its law by kernel density over V."""

    def predict(material: Material) -> Prior:
        family = material.family
        if family.split is None:
            raise ValueError(f"{name} learns from prompts, and {family.name} has none")
        values, errors = heads.predict(name, family.split, material.features)
        return Prior(values[None], errors, by_kernel(values, family.atoms)[None])

    return predict


def bandwidth(values: FloatArray) -> float:
    """Return the width of the normal kernel over V: Silverman's rule, at least 0.01."""
    deviation, quartiles = float(values.std()), np.percentile(values, [25, 75])
    spread = min(deviation, float(quartiles[1] - quartiles[0]) / 1.34) or deviation
    return max(0.9 * spread * float(values.size**-0.2), 0.01)


def by_kernel(values: FloatArray, atoms: Atoms) -> FloatArray:
    """Return the law of rates near each V by kernel density, own row left out, over the family's law; shape (n, A)."""
    near = np.exp(-0.5 * ((values[:, None] - values) / bandwidth(values)) ** 2)
    np.fill_diagonal(near, 0.0)
    members = np.zeros((values.size, atoms.rates.size))
    members[np.arange(values.size), atoms.of_target] = 1.0
    law = near @ members
    total = law.sum(axis=1, keepdims=True)
    law = np.where(total > 0.0, law / np.maximum(total, 1e-300), atoms.weights)
    return law / atoms.weights


NOISES = (0.05, 0.1, 0.15, 0.25, 0.4)
HEADS = ("gp", "history", "running_mean", "constant")

REFERENCE_PRIORS = ("gp", "truth + N(0, .15)", "truth + N(0, .25)", "constant")
"""The four priors of the reference table."""
PRIORS: Mapping[str, Maker] = {
    "gp": service_head("gp"),
    "history": service_head("history"),
    "running_mean": service_head("running_mean"),
    "constant 1/2": service_head("constant"),
    **{f"truth + N(0, .{f'{noise:.2f}'[2:].removesuffix('0')})": noisy_truth(noise) for noise in NOISES},
    "constant": constant,
    "anti-correlated": anti_correlated,
    "right for half": right_for_half,
    "drifting": drifting,
}
LEARNED = ("gp", "history", "running_mean", "constant 1/2")
"""Priors that need prompts, so real outcomes."""
