"""TabICL (arXiv 2502.05564; version 2: 2602.11139): a tabular in-context classifier whose code and weights are free.

Needs the package `tabicl` (extra `prior-tabicl`). Weights: a file or folder in the layout of the published checkpoints,
or the hub repository `jingang/TabICL`; the package reads them as tensors and plain values only.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from rollout_budget.outcomes import FloatArray
from rollout_budget.wire import ModelPart
from services.prior_api.heads.base import Float32Array
from services.prior_api.heads.tabular import Labels
from services.prior_api.weights import Unloadable, Weights

CHECKPOINT = "tabicl-classifier-v2-20260212.ckpt"
REPOSITORY = "jingang/TabICL"


class TabICL:
    """Obeys `Classifier`.

    Args:
        device: `cpu` or `cuda`.
        estimators: views of the same rows (shuffled columns, other scales) whose answers are averaged.
    """

    def __init__(self, weights: Weights, *, device: str, estimators: int) -> None:
        self.version = f"tabicl/{weights.fingerprint}"
        self.part = ModelPart(name="tabicl", licence="bsd-3-clause", source=weights.source, commercial_use=True)
        self._weights, self._device, self._estimators = weights, device, estimators
        self._model: Any = None

    def load(self) -> None:
        """See `Classifier`."""
        try:
            from tabicl import TabICLClassifier  # noqa: PLC0415  an extra, and seconds to import
        except ImportError as error:
            raise Unloadable(
                "the head tabicl needs the package tabicl: pip install 'rollout-budget[prior-tabicl]'"
            ) from error

        class Kept(TabICLClassifier):  # type: ignore[misc, unused-ignore]  # without the package its base is Any
            """Reads its weights once, not at every fit."""

            def _load_model(self) -> None:
                if not hasattr(self, "model_"):
                    super()._load_model()

        self._model = Kept(
            n_estimators=self._estimators,
            model_path=self._weights.file(CHECKPOINT),
            allow_auto_download=False,
            device=self._device,
            random_state=0,
        )
        try:
            self._model._load_model()  # noqa: SLF001  a broken file shows now, not at the first question
        except Exception as error:
            raise Unloadable(f"{self._weights.source}: {self._weights.reason(error)}") from error

    def probabilities(self, context: Float32Array, labels: Labels, targets: Float32Array) -> FloatArray:
        """See `Classifier`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scalers' remarks on columns that are constant in a small context
            self._model.fit(context, labels)
            answers: FloatArray = np.asarray(self._model.predict_proba(targets), dtype=np.float64)[:, 1]
        return answers
