"""What a head is given and what it answers. Everything is on the unit scale.

A `Predictor` answers questions. A `Head` makes one from a context of evidence; that step may be slow and runs off the
event loop. The controls are predictors already: the question carries all they need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rollout_budget.outcomes import FloatArray
from rollout_budget.wire import PriorModel
from services.prior_api.records import Cell, Level

Float32Array = NDArray[np.float32]

LARGEST_ERROR = 0.5
"""Largest standard deviation that a quantity in [0, 1] can have."""


@dataclass(frozen=True, slots=True)
class Context:
    """Evidence to learn from: `n` cells and the features of their prompts.

    Attributes:
        cells: in any order; a head sorts them itself, so that the order of receipt cannot matter.
        features: by text hash; unit vectors of one width. Cells whose prompt is missing here have no features.
    """

    cells: Sequence[Cell]
    features: dict[str, Float32Array]


@dataclass(frozen=True, slots=True)
class Question:
    """`n` prompts whose success rate under one version of a policy is wanted.

    Attributes:
        owner: (team, policy).
        identities: what makes two prompts the same, as in `Cell.identity`; n entries.
        features: by text hash, as in `Context`.
        histories: evidence of each prompt under this policy, all versions; n entries.
        levels: sums over the policy's versions nearest to `version`.
    """

    owner: tuple[str, str]
    version: int
    identities: Sequence[str]
    features: dict[str, Float32Array]
    histories: Sequence[Sequence[Cell]]
    levels: Sequence[Level]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Values in [0, 1] and their standard errors in [0, 0.5], both of shape (n,)."""

    values: FloatArray
    standard_errors: FloatArray

    @classmethod
    def of(cls, means: FloatArray, variances: FloatArray) -> Predictions:
        """Clip to what a success rate can be."""
        return cls(np.clip(means, 0.0, 1.0), np.sqrt(np.clip(variances, 0.0, LARGEST_ERROR**2)))


class Predictor(Protocol):
    """Answers questions; fast."""

    @property
    def name(self) -> PriorModel:
        """Name by which the API knows it."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever its answers to the same question do."""
        ...

    def values(self, question: Question) -> Predictions:
        """Return one value per prompt."""
        ...


class Head(Protocol):
    """Learns from evidence across policies and versions."""

    name: PriorModel

    def fit(self, context: Context) -> Predictor:
        """Return what answers questions in the light of `context`; may be slow.

        Raises:
            ArithmeticError: no fit exists; the service falls back to the controls.
        """
        ...
