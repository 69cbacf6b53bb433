"""How alike two latent success rates are: the covariance of (prompt, policy, version) with another such triple.

    k / v = c * s(rho_c)  +  a * s(rho) * (own * [same prompt] + (1 - own) * (u * E_m(z, z') + (1 - u) * E_l(x, x')))
    E_l(x, x') = exp(-|x - x'|^2 / (2 l^2))
    s(rho) = rho + (1 - rho) * [same policy] * exp(-|v - v'| / tau)

v is the variance of latents over prompts (`link.py`), so the rest are shares of it. The parts are the policy's level,
what is the prompt's own, and what prompts have in common whose surface (z: counts of characters, symbols and the like)
or meaning (x: an encoder's unit vector) is alike. `s` says how much of each carries over to other policies for good
(`rho`) and how fast the rest fades as the policy moves (`tau` versions). Every part is a product of positive
semi-definite kernels, so `k` is one too. A prompt without features is like itself and like no other.
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
    """Hyperparameters of the kernel, as shares of the latents' variance.

    Attributes:
        amplitude: a, variance of a prompt around its policy's level.
        own_share: own, share of it that is the prompt's own, in [0, 1].
        surface_share: u, share of the rest that goes by the text's surface, in [0, 1].
        length_scale: l, in units of distance between unit vectors (orthogonal texts are 1.41 apart).
        surface_scale: m, in units in which two surfaces are 1.41 apart on average.
        policy_similarity: rho, in [0, 1].
        level_similarity: rho_c, the same for levels, which differ more between policies than what is hard does.
        decay_versions: tau.
        level: c, variance of the policies' levels around their common mean.
    """

    amplitude: float = 1.0
    own_share: float = 0.25
    surface_share: float = 0.25
    length_scale: float = 0.6
    surface_scale: float = 0.85
    policy_similarity: float = 0.8
    level_similarity: float = 0.6
    decay_versions: float = 300.0
    level: float = 0.33

    @property
    def variance(self) -> float:
        """Variance before any evidence: k / v of a triple with itself."""
        return self.level + self.amplitude

    def drift(self, versions: float) -> float:
        """Expected squared change of one prompt's latent over a distance of versions: 2 (k(0) - k(versions)) / v."""
        fading = self.amplitude * (1 - self.policy_similarity) + self.level * (1 - self.level_similarity)
        return 2 * fading * -math.expm1(-versions / self.decay_versions)


@dataclass(frozen=True, slots=True)
class Points:
    """`n` triples of prompt, policy and version.

    Attributes:
        features: unit vectors, shape (n, width); zero where not known.
        surfaces: shape (n, numbers); zero where not known, no numbers where the encoder gives none.
        known: whose features are there, shape (n,).
        prompts: code of each prompt, shape (n,); equal codes are the same prompt.
        policies: code of each policy, shape (n,).
        versions: shape (n,).
    """

    features: Float32Array
    surfaces: Float32Array
    known: BoolArray
    prompts: CodeArray
    policies: CodeArray
    versions: Float32Array

    def take(self, places: IntArray) -> Points:
        """Return these points only."""
        return Points(
            self.features[places],
            self.surfaces[places],
            self.known[places],
            self.prompts[places],
            self.policies[places],
            self.versions[places],
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """What the kernel needs of each pair of points, whatever its shape.

    Attributes:
        squared_distance, surface_distance: squared distances, inf where one is not known; shape (n, m).
        same_prompt: shape (n, m).
        same_policy, version_distance: shape (n, m), or (n, 1) where all points on the right are of one policy and
            version.
    """

    squared_distance: Float32Array
    surface_distance: Float32Array
    same_prompt: BoolArray
    same_policy: BoolArray
    version_distance: Float32Array

    @classmethod
    def of(cls, left: Points, right: Points) -> Pairs:
        """Compare every point on the left with every one on the right."""
        once, back = _once(left)
        distances = (
            _squared(left.features[once], right.features)[back],
            _squared(left.surfaces[once], right.surfaces)[back],
        )
        same_prompt = left.prompts[:, None] == right.prompts[None]
        if not (left.known.all() and right.known.all()):
            unknown = ~np.logical_and.outer(left.known, right.known)
            for distance in distances:
                distance[unknown] = np.inf
        policies, versions = right.policies, right.versions
        if policies.size and (policies == policies[0]).all() and (versions == versions[0]).all():
            policies, versions = policies[:1], versions[:1]
        same_policy = left.policies[:, None] == policies[None]
        return cls(*distances, same_prompt, same_policy, np.abs(left.versions[:, None] - versions[None]))

    def covariance(self, shape: Shape) -> Float32Array:
        """Return k / v of every pair, shape (n, m)."""
        fading = np.exp(self.version_distance * np.float32(-1 / shape.decay_versions))
        fading *= self.same_policy
        common = shape.amplitude * (1 - shape.own_share)
        matrix: Float32Array = np.exp(self.squared_distance * np.float32(-0.5 / shape.length_scale**2))
        matrix *= common * (1 - shape.surface_share)
        if shape.surface_share:
            surface = np.exp(self.surface_distance * np.float32(-0.5 / shape.surface_scale**2))
            surface *= common * shape.surface_share
            matrix += surface
        if np.isinf(self.squared_distance).any():
            matrix[self.same_prompt] = common
        matrix += self.same_prompt * np.float32(shape.amplitude * shape.own_share)
        matrix *= shape.policy_similarity + (1 - shape.policy_similarity) * fading
        matrix += shape.level * (shape.level_similarity + (1 - shape.level_similarity) * fading)
        return matrix


def _once(points: Points) -> tuple[IntArray, IntArray]:
    """Return one place of each prompt, and where each point's is among those: prompts recur over versions and policies."""
    _, once, back = np.unique(points.prompts, return_index=True, return_inverse=True)
    recur = points.known.all() and points.prompts.min(initial=0) >= 0 and 4 * once.size < 3 * back.size
    return (once, back) if recur else (np.arange(back.size), np.arange(back.size))


def _squared(left: Float32Array, right: Float32Array) -> Float32Array:
    """Return squared distances, shape (n, m), by the matrix product."""
    distance: Float32Array = left @ right.T
    distance *= -2.0
    distance += np.square(left).sum(axis=1)[:, None]
    distance += np.square(right).sum(axis=1)[None]
    np.maximum(distance, 0.0, out=distance)
    return distance
