"""The models of a learner, sharded: the policy that is trained, and the frozen one that it is held to.

Owns what is trainable, in which precision each is kept, and what is recomputed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.config import LearnerSection
from trainer.learner.fsdp import World, shard
from trainer.learner.lora import with_adapters
from trainer.policy import load_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def trainable_policy(start: Path, settings: LearnerSection, where: World, *, seed: int) -> PreTrainedModel:
    """Return the policy, sharded and on its device: all of it trainable in float32, or its adapters alone.

    Under adapters the model itself is frozen, and kept in the precision that it runs in.
    """
    dtype = DTYPES[settings.dtype]
    adapted = settings.lora.rank > 0
    model = load_model(start, dtype=dtype if adapted else torch.float32)
    if adapted:
        model = with_adapters(model, settings.lora, start=start, seed=seed)
    if settings.activation_checkpointing:
        _recompute_activations(model)
    shard(model, where, dtype=dtype)
    return model.to(where.device)


def frozen_reference(start: Path, settings: LearnerSection, where: World) -> PreTrainedModel:
    """Return the first policy, sharded in the same groups, without gradients, in the precision that it runs in."""
    dtype = DTYPES[settings.dtype]
    model = load_model(start, dtype=dtype).requires_grad_(requires_grad=False)
    shard(model, where, dtype=dtype)
    return model.to(where.device)


def _recompute_activations(model: PreTrainedModel) -> None:
    """Keep no activations of decoder layers. They recompute only in training mode, which their dropout must not be in."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        module.training = isinstance(module, GradientCheckpointingLayer)
