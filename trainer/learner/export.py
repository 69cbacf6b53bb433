"""The learner's weights as a Hugging Face folder that servers load.

Owns gathering and writing; the folder's life (draft, STABLE mark, rename, pruning) is `trainer.weights.exports`.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from trainer.learner.fsdp import World
from trainer.weights.exports import export_directory


def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    where: World,
    *,
    root: Path,
    version: int,
    dtype: torch.dtype,
) -> Path:
    """Write `root/v{version}`, complete or not at all, and return it. Every rank must call; rank 0 writes.

    The whole model passes through rank 0's memory in `dtype`, hence models up to what one host holds.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = cast("dict[str, torch.Tensor]", get_model_state_dict(model, options=options))
    if where.leads:
        with export_directory(root, version) as directory:
            copies = model.all_tied_weights_keys
            _write(
                model, {name: value.to(dtype) for name, value in state.items() if name not in copies}, directory, dtype
            )
            tokenizer.save_pretrained(directory)
    where.barrier()
    return root / f"v{version}"


def _write(model: PreTrainedModel, state: dict[str, torch.Tensor], directory: Path, dtype: torch.dtype) -> None:
    """Save through an unsharded model without memory, so that transformers' own naming of weights applies."""
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(model.config, dtype=dtype)
    shell.generation_config = model.generation_config
    shell.save_pretrained(directory, state_dict=state)
