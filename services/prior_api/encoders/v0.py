"""V0's encoder (arXiv 2602.03584): Qwen3-Embedding-0.6B's last token states, read by V0's trained adapter.

Left padding, at most 2,048 tokens, the prompt as it stands (no instruction), features not scaled to any length.
The checkpoint is `v_0_for_grpo_training.pt` of the hub repository `Now-Join-Us/Generalist-Value-Model-V0`; as the
published training code writes it, `model_state_dict` holds `backbone.*` (Qwen3, frozen in training) and
`adapter_layer.*`, under `module.` if it was saved from a wrapped model. It is read as tensors and plain values only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rollout_budget.wire import ModelPart
from services.prior_api.encoders.placement import Placement
from services.prior_api.encoders.transformer import Side, Transformer
from services.prior_api.encoders.v0_adapter import Adapter, Shape
from services.prior_api.weights import Unloadable, Weights

CHECKPOINT = "v_0_for_grpo_training.pt"
REPOSITORY = "Now-Join-Us/Generalist-Value-Model-V0"
BACKBONE = "Qwen/Qwen3-Embedding-0.6B"
MAX_TOKENS = 2048
HEADS = 3
"""Of the published model; a checkpoint that says otherwise in its `args` is believed."""


class V0(Transformer):
    """Backbone and adapter.

    Args:
        checkpoint: a file, or a folder or repository that has the published file name.
        backbone: where the backbone's configuration and tokenizer lie, and its weights if the checkpoint has none.

    Raises:
        Unloadable: no configuration of a backbone to read, or no checkpoint whose sizes can be read.
    """

    unit = False
    side: Side = "left"

    def __init__(self, checkpoint: Weights, backbone: Weights, placement: Placement) -> None:
        super().__init__(backbone, placement, pooling="last", max_tokens=MAX_TOKENS)
        self.checkpoint = checkpoint
        self._adapter, self._backbone_state = _read(checkpoint)
        if self._adapter.shape.input_width != self.width:
            raise Unloadable(
                f"{checkpoint.source}: the adapter reads {self._adapter.shape.input_width} numbers a token, "
                f"the backbone {backbone.source} writes {self.width}"
            )
        self.width = self._adapter.shape.features
        self.name = f"v0:{checkpoint.title}@{checkpoint.fingerprint}/{backbone.fingerprint}{placement.suffix}"
        self.part = ModelPart(
            name="v0",
            licence="checkpoint: not stated where we could look (its code is Apache-2.0); Qwen3-Embedding: apache-2.0",
            source=f"{checkpoint.source}, backbone {backbone.source}",
            commercial_use=None,
        )

    def _load_model(self) -> Any:
        """Take the backbone from the checkpoint where it is there, otherwise from its own place."""
        self._adapter = self._adapter.to(self.placement.device).eval().requires_grad_(requires_grad=False)
        if not self._backbone_state:
            return super()._load_model()
        from transformers import AutoModel  # noqa: PLC0415  seconds to import, and only where a model is loaded

        model = AutoModel.from_config(self._config(), dtype=torch.float32)
        model.load_state_dict(self._backbone_state)
        self._backbone_state = {}
        return model

    def _pool(self, tokens: Any, mask: Any) -> Any:
        """Return the adapter's features; it computes in float32 on states of the backbone's precision."""
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        states = self._model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return self._adapter(states.float(), mask)


def _read(checkpoint: Weights) -> tuple[Adapter, dict[str, Tensor]]:
    """Return the adapter with its weights, and the backbone's state (empty if there is none).

    Raises:
        Unloadable: the file is not there, or holds anything but what the module's text says.
    """
    path = checkpoint.file(CHECKPOINT)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise Unloadable(f"{path}: {checkpoint.reason(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_state_dict"), dict):
        raise Unloadable(f"{path}: no model_state_dict: it is not a checkpoint of V0's training code")
    state = {name.removeprefix("module."): value for name, value in content["model_state_dict"].items()}
    own = {name.removeprefix("adapter_layer."): state[name] for name in state if name.startswith("adapter_layer.")}
    heads = (content.get("args") or {}).get("num_heads", HEADS)
    try:
        adapter = Adapter(Shape.of(own, heads))
        adapter.load_state_dict(own)
    except (KeyError, RuntimeError, AssertionError) as error:
        raise Unloadable(f"{path}: adapter_layer does not fit V0's adapter: {error}") from error
    rest = {name.removeprefix("backbone."): state[name] for name in state if name.startswith("backbone.")}
    return adapter.float(), rest
