"""Low-rank adapters: training them in place of the model, and the folder that servers load them from.

Owns all that is particular to `peft`: which layers get adapters, the policy without them, the names in the exported
folder. Adapters start as a change of nothing (B = 0, LoRA, arXiv 2106.09685), drawn from the run's seed on every rank.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import PreTrainedModel

from trainer.config import LoraSection
from trainer.errors import ConfigError
from trainer.learner.fsdp import World
from trainer.weights.exports import export_directory

ALL_LINEAR = "all-linear"
"""What peft calls every linear layer but the head."""
WEIGHTS_FILE = "adapter_model.safetensors"
"""Where peft and vLLM look for adapters."""


def with_adapters(model: PreTrainedModel, settings: LoraSection, *, start: Path, seed: int) -> PreTrainedModel:
    """Return the model with adapters in its layers, alone trainable, in float32.

    Args:
        model: unsharded; changed in place.
        settings: rank above 0.
        start: folder of the model, named in exports as what the adapters belong to.
        seed: of their first weights.

    Raises:
        ConfigError: peft is not installed, or the model has no such layers.
    """
    peft = _peft()
    targets = settings.targets if settings.targets == ALL_LINEAR else settings.targets.replace(" ", "").split(",")
    config = peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is on its way out
        try:
            adapted = peft.get_peft_model(model, config)
        except ValueError as error:
            layers = sorted({name.rpartition(".")[2] for name, _ in model.named_modules() if name.endswith("_proj")})
            raise ConfigError(
                f"learner.lora.targets = {settings.targets!r}: {str(error).splitlines()[0]} Write layer names that the "
                f"model has ({', '.join(layers)}), or {ALL_LINEAR!r}."
            ) from error
    adapted.peft_config["default"].base_model_name_or_path = str(start.resolve())
    return cast("PreTrainedModel", adapted.eval())


def without_adapters(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """Let the model be the one it was before it had adapters, inside the block."""
    return cast("AbstractContextManager[Any]", cast("Any", model).disable_adapter())


def export_adapters(model: PreTrainedModel, where: World, *, root: Path, version: int, dtype: torch.dtype) -> Path:
    """Write `root/v{version}` with `adapter_config.json` and the adapters, complete or not at all; a collective.

    Names are peft's own without an adapter's name (`base_model.model.<layer>.lora_A.weight`), as vLLM loads them.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state = get_model_state_dict(model, options=options)
    if where.leads:
        named = _peft().get_peft_model_state_dict(model, state_dict=state)
        with export_directory(root, version) as directory:
            save_file(
                {name: value.to(dtype).contiguous() for name, value in named.items()},
                directory / WEIGHTS_FILE,
                metadata={"format": "pt"},
            )
            _described(model).save_pretrained(directory)
    where.barrier()
    return root / f"v{version}"


def _described(model: PreTrainedModel) -> Any:
    """Return the adapters' description for use, with layers by their bare names, where peft has one for each layer."""
    config = copy.copy(cast("Any", model).peft_config["default"])
    config.inference_mode = True
    config.target_modules = sorted({str(name).rpartition(".")[2] for name in config.target_modules})
    return config


def _peft() -> Any:
    try:
        import peft  # noqa: PLC0415 - an extra; the whole model is trained without it
    except ImportError as error:
        raise ConfigError(
            "learner.lora.rank: adapters need peft; pip install 'rollout-budget[trainer-lora]', or set it to 0"
        ) from error
    return peft
