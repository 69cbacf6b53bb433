"""Settings of the learner: the policy gradient and how it is computed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.config.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class LoraSection(Section):
    """Low-rank adapters that are trained instead of the whole model; `rank = 0` trains the model."""

    rank: Annotated[int, Field(ge=0, le=1024)] = 0
    alpha: PositiveFloat = 32.0
    targets: str = "all-linear"


class LearnerSection(Section):
    """The clipped policy gradient and how it is computed."""

    optimizer: Literal["adamw", "adam", "sgd", "adafactor", "muon"] = "adamw"
    lr: PositiveFloat = 2e-4
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: NonNegativeFloat = 0.0
    loss: Literal["token_mean", "sequence_mean"] = "token_mean"
    advantage_scale: Literal["none", "group_std", "batch_std"] = "none"
    importance: Literal["none", "truncated"] = "none"
    importance_cap: PositiveFloat = 2.0
    kl: NonNegativeFloat = 0.0
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: PositiveFloat = 0.28
    epochs: PositiveInt = 1
    minibatches: PositiveInt = 1
    grad_clip: PositiveFloat = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    microbatch_tokens: PositiveInt = 8192
    activation_checkpointing: bool = False
    entropy: bool = False
    collective_timeout_s: PositiveFloat = 1800.0
    lora: LoraSection = LoraSection()
