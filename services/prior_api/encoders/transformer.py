"""Any Hugging Face encoder: token states, pooled, scaled to length 1. Code that comes with a model is never run.

Owns the way from texts to token batches, which other encoders share; the pooling is theirs to replace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from rollout_budget.wire import ModelPart
from services.prior_api import licences
from services.prior_api.encoders.batches import plan
from services.prior_api.encoders.placement import Placement
from services.prior_api.heads.base import Float32Array
from services.prior_api.weights import Unloadable, Weights

Pooling = Literal["mean", "last", "cls"]
Side = Literal["left", "right"]

MOST_TOKENS = 8192
"""Of one text, where the model's own bound is larger or not stated."""


class Transformer:
    """An encoder from a folder or the hub.

    Args:
        weights: configuration, tokenizer and weights in the layout of `save_pretrained`.
        pooling: `mean` over the tokens, the `last` one, or the first (`cls`).
        max_tokens: what follows is cut; None is the model's own bound.

    Raises:
        Unloadable: there is no configuration to read.
    """

    surface = 0
    unit = True
    side: Side = "right"

    def __init__(
        self, weights: Weights, placement: Placement, *, pooling: Pooling = "mean", max_tokens: int | None = None
    ) -> None:
        self.weights, self.placement, self.pooling = weights, placement, pooling
        config = self._config()
        bound = getattr(config, "max_position_embeddings", MOST_TOKENS) or MOST_TOKENS
        self.max_tokens = min(max_tokens or MOST_TOKENS, bound)
        self.width = int(config.hidden_size)
        self.name = f"hf:{weights.title}@{weights.fingerprint}/{pooling}/{self.max_tokens}{placement.suffix}"
        self.part: ModelPart = licences.of_card(f"hf:{weights.title}", weights)
        self._tokenizer: Any = None
        self._model: Any = None

    @property
    def _origin(self) -> dict[str, Any]:
        return {
            "pretrained_model_name_or_path": self.weights.source,
            "revision": self.weights.revision,
            "local_files_only": not self.weights.hub,
            "trust_remote_code": False,
        }

    def _config(self) -> Any:
        from transformers import AutoConfig  # noqa: PLC0415  needed by some settings only

        try:
            config = AutoConfig.from_pretrained(**self._origin)
        except Exception as error:
            raise Unloadable(f"encoder {self.weights.source}: {self.weights.reason(error)}") from error
        if not hasattr(config, "hidden_size"):
            raise Unloadable(
                f"encoder {self.weights.source}: a {config.model_type} model has no token states of one size"
            )
        return config

    def load(self) -> None:
        """Load tokenizer and weights.

        Raises:
            Unloadable: they are not there or not what they should be.
        """
        from transformers.utils import logging  # noqa: PLC0415  seconds to import, and only here

        logging.disable_progress_bar()
        try:
            self._load_tokenizer()
            self._model = self.placement.place(self._load_model())
        except Unloadable:
            raise
        except Exception as error:
            raise Unloadable(f"encoder {self.weights.source}: {self.weights.reason(error)}") from error

    def _load_tokenizer(self) -> None:
        from transformers import AutoTokenizer  # noqa: PLC0415  as above

        self._tokenizer = AutoTokenizer.from_pretrained(**self._origin)

    def _load_model(self) -> Any:
        from transformers import AutoModel  # noqa: PLC0415  as above

        return AutoModel.from_pretrained(**self._origin, dtype=self.placement.precision)

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Return shape (len(texts), width), float32, rows of length 1."""
        tokens = self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        blank = self._blank
        rows = [ids or [blank] for ids in tokens]
        vectors = np.empty((len(rows), self.width), dtype=np.float32)
        for places in plan([len(ids) for ids in rows], self.placement.batch_tokens):
            vectors[places] = self._features([rows[place] for place in places])
        return vectors

    @property
    def _blank(self) -> int:
        """Token that stands for an empty text, and for padding, which the mask hides."""
        choices = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id, 0)
        return next(token for token in choices if token is not None)

    def _features(self, rows: Sequence[Sequence[int]]) -> Float32Array:
        """Pad one batch, run the model, pool."""
        import torch  # noqa: PLC0415  seconds to import, and only here

        longest = max(len(ids) for ids in rows)
        tokens = np.full((len(rows), longest), self._blank, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for row, ids in enumerate(rows):
            part = slice(longest - len(ids), None) if self.side == "left" else slice(0, len(ids))
            tokens[row, part], mask[row, part] = ids, 1
        with torch.inference_mode():
            pooled = self._pool(*(torch.from_numpy(array).to(self.placement.device) for array in (tokens, mask)))
            vectors: Float32Array = pooled.float().cpu().numpy()
        return vectors

    def _pool(self, tokens: Any, mask: Any) -> Any:
        """Return one vector per row of a padded batch, float32."""
        import torch  # noqa: PLC0415  as above

        states = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        if self.pooling == "mean":
            weights = mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        else:
            ends = mask.sum(dim=1) - 1 if self.pooling == "last" else torch.zeros_like(mask[:, 0])
            pooled = states[torch.arange(len(states), device=states.device), ends]
        return torch.nn.functional.normalize(pooled, dim=1)
