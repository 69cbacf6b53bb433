"""Encoders turn texts into vectors. The default needs no model hub and no GPU: its weights come in a package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.prior_api.encoders.base import Encoder
from services.prior_api.encoders.minilm import MiniLM
from services.prior_api.encoders.placement import Placement
from services.prior_api.encoders.surface import Described
from services.prior_api.encoders.transformer import Pooling, Transformer
from services.prior_api.weights import Weights

DEFAULT_BACKBONE = "Qwen/Qwen3-Embedding-0.6B"


@dataclass(frozen=True, slots=True)
class Choice:
    """What the settings say about an encoder.

    Attributes:
        name: `minilm`, `hf:<folder or hub repository>` or `v0:<checkpoint file, folder or hub repository>`.
        pooling: of an `hf:` encoder.
        max_tokens: of an `hf:` encoder; None is the model's own bound.
        revision: on the hub.
        backbone: of V0.
        hub: whether downloads are allowed.
    """

    name: str = "minilm"
    pooling: Pooling = "mean"
    max_tokens: int | None = None
    revision: str | None = None
    backbone: str = DEFAULT_BACKBONE
    hub: bool = False


def _minilm(_choice: Choice, placement: Placement) -> Encoder:
    return MiniLM(placement=placement)


def _hugging_face(choice: Choice, placement: Placement) -> Encoder:
    weights = Weights(choice.name.removeprefix("hf:"), choice.revision, choice.hub)
    return Transformer(weights, placement, pooling=choice.pooling, max_tokens=choice.max_tokens)


def _v0(choice: Choice, placement: Placement) -> Encoder:
    from services.prior_api.encoders.v0 import V0  # noqa: PLC0415  imports torch, which the others put off

    checkpoint = Weights(choice.name.removeprefix("v0:"), choice.revision, choice.hub)
    return V0(checkpoint, Weights(choice.backbone, hub=choice.hub), placement)


KINDS: dict[str, Callable[[Choice, Placement], Encoder]] = {"minilm": _minilm, "hf": _hugging_face, "v0": _v0}
"""By what stands before the colon of the name in the settings."""


def create(choice: Choice, placement: Placement) -> Encoder:
    """Return the encoder that was chosen; its weights are not loaded yet.

    Raises:
        Unloadable: its configuration or checkpoint cannot be read.
    """
    return Described(KINDS[choice.name.partition(":")[0]](choice, placement))


ENCODERS: dict[str, Callable[[int], Encoder]] = {"minilm": MiniLM}
"""Those that need nothing but a number of threads; they run on the CPU in float32."""

__all__ = ["DEFAULT_BACKBONE", "ENCODERS", "Choice", "Encoder", "MiniLM", "Placement", "Transformer", "create"]
