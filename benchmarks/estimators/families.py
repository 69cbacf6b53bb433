"""Where true success rates come from: real outcomes of language models, or a stated law. Unit scale.

A family gives one set of targets per seed. The law of its rates is kept as atoms, at most `MOST_ATOMS`, for those
bounds that may know it (`bounds`): the rates themselves where few are distinct, means of equal shares otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.estimators import data
from rollout_budget.groups import IntArray
from rollout_budget.outcomes import FloatArray

REAL = "real"
SYNTHETIC: Mapping[str, tuple[float, float]] = {
    "u-shaped": (0.3, 0.3),
    "uniform": (1.0, 1.0),
    "all hard": (1.0, 20.0),
    "all easy": (20.0, 1.0),
}
"""Parameters of the Beta law of each synthetic family."""
TARGETS = 1728
"""Prompts of a synthetic family: as many as the real data has."""
MOST_ATOMS = 96


@dataclass(frozen=True, slots=True)
class Atoms:
    """A law on `A` rates.

    Attributes:
        rates: shape (A,), rising.
        weights: shape (A,), summing to 1.
        of_target: atom of each target, shape (n,).
    """

    rates: FloatArray
    weights: FloatArray
    of_target: IntArray

    @classmethod
    def of(cls, truth: FloatArray) -> Atoms:
        """Return the empirical law of `truth`."""
        rates, place = np.unique(np.round(truth, 12), return_inverse=True)
        if rates.size > MOST_ATOMS:
            place = (np.argsort(np.argsort(truth, kind="stable")) * MOST_ATOMS) // truth.size
            rates = np.bincount(place, truth) / np.bincount(place)
        weights = np.bincount(place, minlength=rates.size) / truth.size
        return cls(rates, weights, place.astype(np.int64))


@dataclass(frozen=True, slots=True)
class Family:
    """Targets of one seed; `split` is what priors may learn from, None where there are no prompts."""

    name: str
    truth: FloatArray
    atoms: Atoms
    split: data.Split | None = None


def real(rows: data.Rows, seed: int) -> Family:
    """Return the targets of a split of real outcomes."""
    split = data.split(rows, seed)
    return Family(REAL, split.truth, Atoms.of(split.truth), split)


def synthetic(name: str, seed: int) -> Family:
    """Return rates drawn from the law of that name."""
    truth = np.random.default_rng([seed, 3]).beta(*SYNTHETIC[name], TARGETS)
    return Family(name, truth, Atoms.of(truth))
