"""Unit vectors for a head that needs them, from an encoder that scales its features otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rollout_budget.wire import PriorModel
from services.prior_api.heads.base import Context, Float32Array, Head, Predictions, Predictor, Question


class OnUnitVectors:
    """A head that is given features of length 1, whatever length they came with."""

    def __init__(self, head: Head) -> None:
        self.name: PriorModel = head.name
        self._head = head

    def fit(self, context: Context) -> OnUnitVectorsFit:
        """Fit the head inside; it may raise what that one does."""
        return OnUnitVectorsFit(self._head.fit(replace(context, features=scaled(context.features))))


@dataclass(frozen=True, slots=True)
class OnUnitVectorsFit:
    """A predictor that is asked with features of length 1."""

    predictor: Predictor

    @property
    def name(self) -> PriorModel:
        """Of the head inside."""
        return self.predictor.name

    @property
    def version(self) -> str:
        """Of the head inside."""
        return self.predictor.version

    def values(self, question: Question) -> Predictions:
        """Return what the head inside answers."""
        return self.predictor.values(replace(question, features=scaled(question.features)))


def scaled(features: dict[str, Float32Array]) -> dict[str, Float32Array]:
    """Scale each vector to length 1; one of zeros stays."""
    lengths = {identity: float(np.linalg.norm(vector)) for identity, vector in features.items()}
    return {
        identity: (vector / np.float32(lengths[identity])) if lengths[identity] > 0 else vector
        for identity, vector in features.items()
    }
