"""Features in the form that a head needs: unit vectors, or vectors without the numbers on the text's surface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rollout_budget.wire import PriorModel
from services.prior_api.heads.base import Context, Float32Array, Head, Predictions, Predictor, Question
from services.prior_api.heads.updates import Growing

Change = Callable[[dict[str, Float32Array]], dict[str, Float32Array]]


class OnChanged:
    """A head that is given features in another form than they came in."""

    def __init__(self, head: Head, change: Change) -> None:
        self.name: PriorModel = head.name
        self._head, self._change = head, change

    def fit(self, context: Context) -> OnChangedFit:
        """Fit the head inside; it may raise what that one does."""
        changed = replace(context, features=self._change(context.features))
        fit = self._head.fit(changed)
        return GrowingOnChangedFit(fit, self._change) if isinstance(fit, Growing) else OnChangedFit(fit, self._change)


class OnUnitVectors(OnChanged):
    """A head that is given features of length 1, whatever length they came with; `surface` numbers at the end stay."""

    def __init__(self, head: Head, surface: int = 0) -> None:
        super().__init__(head, partial(scaled, surface=surface))


class WithoutSurface(OnChanged):
    """A head that is given features without the `surface` numbers at their end."""

    def __init__(self, head: Head, surface: int) -> None:
        super().__init__(head, partial(shortened, surface=surface))


@dataclass(frozen=True, slots=True)
class OnChangedFit:
    """A predictor that is asked with changed features."""

    predictor: Predictor
    change: Change

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
        return self.predictor.values(replace(question, features=self.change(question.features)))


@dataclass(frozen=True, slots=True)
class GrowingOnChangedFit(OnChangedFit):
    """The same, where rows can be appended to the predictor inside."""

    predictor: Growing

    def grown(self, context: Context) -> GrowingOnChangedFit:
        """Append rows; it may raise what the one inside does."""
        changed = replace(context, features=self.change(context.features))
        return GrowingOnChangedFit(self.predictor.grown(changed), self.change)


def scaled(features: dict[str, Float32Array], surface: int = 0) -> dict[str, Float32Array]:
    """Scale each vector to length 1 but for the last `surface` numbers; one of zeros stays."""
    return {identity: _scaled(vector, vector.size - surface) for identity, vector in features.items()}


def shortened(features: dict[str, Float32Array], surface: int) -> dict[str, Float32Array]:
    """Leave out the last `surface` numbers of each vector."""
    return {identity: vector[: vector.size - surface] for identity, vector in features.items()}


def _scaled(vector: Float32Array, width: int) -> Float32Array:
    length = np.linalg.norm(vector[:width])
    return np.concatenate([vector[:width] / length, vector[width:]]) if length > 0 else vector
