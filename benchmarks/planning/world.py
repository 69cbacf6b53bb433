"""The prompts of one run as a chooser meets them: which are on offer at a step, and how often each succeeds then.

Three regimes. `recurring`: one pool, all of it on offer at every step. `drifting`: the same while the policy learns,
every rate's log-odds rising by `DRIFT` over the run. `stream`: prompts that were never met before at every step, so no
history helps. Unit scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rollout_budget.groups import IntArray
from rollout_budget.outcomes import FloatArray

Regime = Literal["recurring", "drifting", "stream"]
REGIMES: tuple[Regime, ...] = ("recurring", "drifting", "stream")
DRIFT = 2.0
"""Log-odds from start to end of a drifting run: a prompt solved in 27% of cases is solved in 73%."""
NEAR = 1e-3
"""Rates of 0 and 1 drift from here: log-odds of 7."""


@dataclass(frozen=True, slots=True)
class Length:
    """A run: `steps` of `groups` groups of `size` rollouts, chosen among `offered` prompts."""

    steps: int = 80
    groups: int = 16
    size: int = 4
    offered: int = 256

    @property
    def rollouts(self) -> int:
        """Budget of a step."""
        return self.groups * self.size


@dataclass(frozen=True, slots=True)
class World:
    """One run's prompts.

    Attributes:
        truth: rates half way through the run, shape (n,); n is `offered` but for a stream.
        offers: places in `truth` that are on offer, by step, shape (steps, offered).
        regime: see above.
        length: see `Length`.
    """

    truth: FloatArray
    offers: IntArray
    regime: Regime
    length: Length

    @classmethod
    def of(cls, truth: FloatArray, regime: Regime, length: Length, rng: np.random.Generator) -> World:
        """Draw a run from many rates."""
        if regime == "stream":
            offers = [rng.choice(truth.size, length.offered, replace=False) for _ in range(length.steps)]
            return cls(truth, np.array(offers, dtype=np.int64), regime, length)
        pool = truth[rng.choice(truth.size, length.offered, replace=False)]
        return cls(pool, np.tile(np.arange(length.offered, dtype=np.int64), (length.steps, 1)), regime, length)

    @property
    def remembers(self) -> bool:
        """Whether prompts are met again."""
        return self.regime != "stream"

    def rates(self, step: int) -> FloatArray:
        """Return the success rates of the prompts on offer, shape (offered,)."""
        rates: FloatArray = self.truth[self.offers[step]]
        if self.regime != "drifting":
            return rates
        inside = np.clip(rates, NEAR, 1.0 - NEAR)
        shift = DRIFT * (step / (self.length.steps - 1) - 0.5)
        found: FloatArray = 1.0 / (1.0 + (1.0 / inside - 1.0) * np.exp(-shift))
        return found


def draw(rates: FloatArray, sizes: Sequence[int] | IntArray, rng: np.random.Generator) -> IntArray:
    """Return how many of each prompt's rollouts succeed."""
    return rng.binomial(np.asarray(sizes, dtype=np.int64), rates).astype(np.int64)
