"""How features become places whose plain distances say how alike prompts are. Pure; learned without any outcomes.

Features are a unit vector of meaning and, where the encoder gives them, numbers on the text's surface.

Unit vectors of one domain have much in common, which says nothing of their differences: their mean is taken off, in
part while prompts are few, and what is left is scaled to length 1 again.

Numbers on the surface have unlike scales, and many say nearly the same. Each is brought to mean 0 and spread 1. Their
principal components are then scaled by the fourth root of 1 / variance, half way to whitening: no direction counts only
because many numbers repeat it, and none that hardly varies is blown up. Two prompts are sqrt(2) apart on average, as
orthogonal unit vectors are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rollout_budget.outcomes import FloatArray
from services.prior_api.heads.base import Float32Array

CENTRE_ROWS = 64.0
"""Prompts at which half of the mean vector is taken off: the mean of a few is mostly themselves."""
SHORTEST = 1e-6
"""Length below which a vector has no direction left."""
SMALLEST_SPREAD = 0.01
"""Added to a number's spread: one that never varied in the evidence stays finite where it does later."""
SMALLEST_VARIANCE = 0.02
"""Added to a component's variance, of 1 on average, for the same reason."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The maps from features to places.

    Attributes:
        centre: taken off unit vectors, shape (width,).
        mean: of the numbers on the surface, shape (numbers,).
        turn: what they are multiplied by, shape (numbers, numbers).
    """

    centre: Float32Array
    mean: FloatArray
    turn: FloatArray

    @classmethod
    def of(cls, vectors: Float32Array, surfaces: Float32Array) -> Metric:
        """Learn from one row per prompt, shapes (n, width) and (n, numbers); n may be 0, and so may numbers."""
        centre = vectors.sum(axis=0, dtype=np.float64) / (len(vectors) + CENTRE_ROWS)
        return cls(centre.astype(np.float32), *_half_whitened(surfaces.astype(np.float64)))

    def meaning(self, vectors: Float32Array) -> Float32Array:
        """Return the places of n unit vectors, of length 1."""
        off = vectors - self.centre
        placed: Float32Array = off / np.maximum(np.linalg.norm(off, axis=1, keepdims=True), np.float32(SHORTEST))
        return placed

    def surface(self, surfaces: Float32Array) -> Float32Array:
        """Return the places of the numbers of n prompts."""
        placed: Float32Array = ((surfaces - self.mean) @ self.turn).astype(np.float32)
        return placed


def _half_whitened(surfaces: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return `mean` and `turn`; without two prompts or without any numbers nothing is scaled."""
    count, numbers = surfaces.shape
    if count < 2 or not numbers:
        return np.zeros(numbers), np.eye(numbers)
    mean, spread = surfaces.mean(axis=0), surfaces.std(axis=0) + SMALLEST_SPREAD
    scaled = (surfaces - mean) / spread
    variances, directions = np.linalg.eigh(scaled.T @ scaled / count)
    variances = np.maximum(variances, 0.0) + SMALLEST_VARIANCE
    return mean, directions / spread[:, None] * variances**-0.25 / np.sqrt(np.sqrt(variances).sum())
