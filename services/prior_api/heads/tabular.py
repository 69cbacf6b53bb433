"""In-context heads: a classifier that was trained beforehand reads rows of evidence and answers in one pass.

As V0 does it (arXiv 2602.03584): a row is a prompt's features with a label, whether its success rate is at least one
half; the value of a prompt is the classifier's probability of that label. Up to `rows` of them are the context: those of
the same policy first, nearest version first, then those of other policies. Within a version identities decide, which are
hashes, so that the choice is a fair sample and the order of receipt cannot matter.

Two things to know about the numbers. The probability that a rate is at least one half is not the mean rate; they agree
where rates are near 0 or 1, which most are. And a classifier states no error: the standard error given here is the
smaller of what any rate with that mean can have, sqrt(p(1-p)), and the spread of the policy's rates around their mean.
It is an upper figure, not a calibrated one: too large where the classifier is good.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rollout_budget.outcomes import FloatArray
from rollout_budget.wire import ModelPart, PriorModel
from services.prior_api.heads.base import Context, Float32Array, Predictions, Question
from services.prior_api.heads.history import History
from services.prior_api.heads.running_mean import summarise
from services.prior_api.records import Cell

Labels = NDArray[np.int64]

CONTEXT_ROWS = 256
"""V0's context; its ranking of unseen prompts was .54 AUC with 32 rows, .59 with 128, .71 with 256, .73 with 512."""
THRESHOLD = 0.5
"""Success rate from which a row counts as solved: V0's score of 0 on its scale of -1 to 1."""
CHUNK = 512
"""Prompts in one pass: bounds the memory of a request."""


class Classifier(Protocol):
    """A pre-trained classifier of two classes.

    Attributes:
        version: changes whenever its answers do.
        part: name, licence and source of its weights.
    """

    version: str
    part: ModelPart

    def load(self) -> None:
        """Load package and weights; called once, before the first `probabilities`.

        Raises:
            Unloadable: they are not there or not what they should be.
        """
        ...

    def probabilities(self, context: Float32Array, labels: Labels, targets: Float32Array) -> FloatArray:
        """Return the probability of label 1 for `targets` (m, width), given `context` (n, width) and `labels` (n,).

        Both labels occur. Called by one thread at a time.
        """
        ...


class InContext:
    """A head around a classifier; `rows` bounds its context."""

    def __init__(self, name: PriorModel, classifier: Classifier, *, rows: int = CONTEXT_ROWS) -> None:
        self.name: PriorModel = name
        self.part = classifier.part
        self._classifier = classifier
        self._rows = rows
        self._lock = threading.Lock()
        self._ready = False
        self._failure: str | None = None

    def fit(self, context: Context) -> InContextFit:
        """Load the weights the first time, and keep the rows that have features.

        Raises:
            ArithmeticError: the weights cannot be loaded; what kept them is remembered, so that it is found out once.
        """
        with self._lock:
            if self._failure is None and not self._ready:
                try:
                    self._classifier.load()
                    self._ready = True
                except RuntimeError as error:
                    self._failure = str(error)
        if self._failure is not None:
            raise ArithmeticError(self._failure)
        cells = tuple(cell for cell in context.cells if cell.identity in context.features)
        return InContextFit(self.name, self._classifier, self._lock, self._rows, cells, context.features)


@dataclass(frozen=True, slots=True)
class InContextFit:
    """Evidence to choose a context from.

    Attributes:
        lock: held while the classifier works, which keeps its context in itself.
        cells: evidence with features, in any order.
    """

    name: PriorModel
    classifier: Classifier
    lock: threading.Lock
    rows: int
    cells: Sequence[Cell]
    features: dict[str, Float32Array]

    @property
    def version(self) -> str:
        """Name of the head and fingerprint of its weights."""
        return self.classifier.version

    def values(self, question: Question) -> Predictions:
        """Return class probabilities; a prompt without features gets what its own history says.

        Raises:
            ArithmeticError: the context has no row of one of the two labels.
        """
        fallback = History().values(question)
        known = [place for place, identity in enumerate(question.identities) if identity in question.features]
        if not known:
            return fallback
        probabilities = self._ask(question, known)
        spread = summarise(question.levels, question.version).spread
        values, variances = fallback.values.copy(), np.square(fallback.standard_errors)
        values[known] = probabilities
        variances[known] = np.minimum(probabilities * (1 - probabilities), spread)
        return Predictions.of(values, variances)

    def _ask(self, question: Question, known: Sequence[int]) -> FloatArray:
        chosen = nearest(self.cells, question.owner, question.version, self.rows)
        labels = np.array([cell.successes >= THRESHOLD * cell.trials for cell in chosen], dtype=np.int64)
        if len(set(labels.tolist())) < 2:
            side = "no" if not chosen else "only solved" if labels[0] else "only unsolved"
            raise ArithmeticError(f"{self.name} has {side} rows in its context of {len(chosen)}")
        context = np.stack([self.features[cell.identity] for cell in chosen])
        targets = np.stack([question.features[question.identities[place]] for place in known])
        with self.lock:
            parts = [
                self.classifier.probabilities(context, labels, targets[start : start + CHUNK])
                for start in range(0, len(targets), CHUNK)
            ]
        return np.concatenate(parts)


def nearest(cells: Sequence[Cell], owner: tuple[str, str], version: int, most: int) -> list[Cell]:
    """Return at most `most` cells: own policy before others, near versions before far ones, then by identity."""

    def rank(cell: Cell) -> tuple[bool, int, int, str, str, str, str]:
        foreign = (cell.team, cell.policy) != owner
        return foreign, abs(cell.version - version), cell.version, cell.identity, cell.team, cell.policy, cell.key

    return sorted(cells, key=rank)[:most]
