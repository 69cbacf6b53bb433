"""How alike two success rates are: the covariance of (prompt, policy, version) with another such triple.

    k = c * s  +  a * t * exp(-|x - x'|^2 / (2 l^2)) * s  +  a * (1 - t) * [same prompt] * s
    s = rho + (1 - rho) * [same policy] * exp(-|v - v'| / tau)

The three parts are the policy's level, what prompts of like text share, and what is the prompt's own. `s` says how much
of each carries over to other policies for good (`rho`) and how fast the rest fades as the policy moves (`tau`
versions). Every part is a product of positive semi-definite kernels, so `k` is one too. A prompt without features is
like itself and like no other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rollout_budget.groups import IntArray
from services.prior_api.heads.base import Float32Array

BoolArray = NDArray[np.bool_]
CodeArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Shape:
    """Hyperparameters of the kernel; variances on the unit scale.

    Attributes:
        amplitude: a, variance of a prompt's rate around its policy's level.
        text_share: t, share of it that prompts of like text have in common, in [0, 1].
        length_scale: l, in units of distance between unit vectors (orthogonal texts are 1.41 apart).
        policy_similarity: rho, in [0, 1].
        decay_versions: tau.
        level: c, variance of the policies' mean rates around their common mean.
    """

    amplitude: float = 0.12
    text_share: float = 0.6
    length_scale: float = 0.6
    policy_similarity: float = 0.7
    decay_versions: float = 80.0
    level: float = 0.05

    @property
    def variance(self) -> float:
        """Variance before any evidence: k of a triple with itself."""
        return self.level + self.amplitude

    def drift(self, versions: float) -> float:
        """Expected squared change of one prompt's rate over a distance of versions: 2 (k(0) - k(versions))."""
        return 2 * self.variance * (1 - self.policy_similarity) * -math.expm1(-versions / self.decay_versions)


@dataclass(frozen=True, slots=True)
class Points:
    """`n` triples of prompt, policy and version.

    Attributes:
        features: unit vectors, shape (n, width); zero where not known.
        known: whose features are there, shape (n,).
        prompts: code of each prompt, shape (n,); equal codes are the same prompt.
        policies: code of each policy, shape (n,).
        versions: shape (n,).
    """

    features: Float32Array
    known: BoolArray
    prompts: CodeArray
    policies: CodeArray
    versions: Float32Array

    def take(self, places: IntArray) -> Points:
        """Return these points only."""
        return Points(
            self.features[places],
            self.known[places],
            self.prompts[places],
            self.policies[places],
            self.versions[places],
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """What the kernel needs of each pair of points, whatever its shape; matrices of shape (n, m)."""

    squared_distance: Float32Array
    same_prompt: BoolArray
    same_policy: BoolArray
    version_distance: Float32Array

    @classmethod
    def of(cls, left: Points, right: Points) -> Pairs:
        """Compare every point on the left with every one on the right."""
        distance = left.features @ right.features.T
        distance *= -2.0
        distance += 2.0
        np.maximum(distance, 0.0, out=distance)
        same_prompt = left.prompts[:, None] == right.prompts[None]
        if not (left.known.all() and right.known.all()):
            distance[~np.logical_and.outer(left.known, right.known)] = np.inf
        distance[same_prompt] = 0.0
        same_policy = left.policies[:, None] == right.policies[None]
        return cls(distance, same_prompt, same_policy, np.abs(left.versions[:, None] - right.versions[None]))

    def covariance(self, shape: Shape) -> Float32Array:
        """Return k of every pair, shape (n, m)."""
        similarity = np.exp(self.version_distance * np.float32(-1 / shape.decay_versions))
        similarity *= self.same_policy
        similarity *= 1 - shape.policy_similarity
        similarity += shape.policy_similarity
        text: Float32Array = np.exp(self.squared_distance * np.float32(-0.5 / shape.length_scale**2))
        text *= shape.amplitude * shape.text_share
        text += shape.level
        text += self.same_prompt * np.float32(shape.amplitude * (1 - shape.text_share))
        text *= similarity
        return text
