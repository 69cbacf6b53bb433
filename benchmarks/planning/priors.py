"""What is said of a prompt before its first rollout, from good to hostile. Unit scale.

`reversed` is one minus the truth with noise. It names the prompts with signal as well as the truth does, because
p (1 - p) is symmetric; what is hostile to a choice is `inverted`, which calls every coin flip certain and every certain
prompt a coin flip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from rollout_budget.outcomes import FloatArray

NOISE = 0.15
"""Standard deviation of the noise of wrong priors: they are wrong in a noisy way, as real ones."""

Prior = Callable[[FloatArray, np.random.Generator], FloatArray]


def noisy(deviation: float) -> Prior:
    """Return the truth plus normal noise, clipped to [0, 1]."""

    def predict(truth: FloatArray, rng: np.random.Generator) -> FloatArray:
        return np.clip(truth + rng.normal(0.0, deviation, truth.size), 0.0, 1.0)

    return predict


def constant(truth: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return 1/2 for every prompt: no information at all."""
    del rng
    return np.full(truth.size, 0.5)


def reversed_(truth: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return one minus the truth, with noise: anti-correlated."""
    return noisy(NOISE)(1.0 - truth, rng)


def inverted(truth: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return the truth shifted by a half, around the end of the scale, with noise."""
    return noisy(NOISE)((truth + 0.5) % 1.0, rng)


def right_for_half(truth: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return the truth with noise for half of the prompts, and `inverted` for the others."""
    return np.where(rng.random(truth.size) < 0.5, noisy(NOISE)(truth, rng), inverted(truth, rng))


PRIORS: Mapping[str, Prior] = {
    "truth + N(0, .15)": noisy(0.15),
    "truth + N(0, .25)": noisy(0.25),
    "constant": constant,
    "reversed": reversed_,
    "right for half": right_for_half,
    "inverted": inverted,
}
