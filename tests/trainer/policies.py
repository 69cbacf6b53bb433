"""Log-probabilities by transformers, token by token, for what servers claim; and adapters with known weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.vllm_server import LORA_RANK
from trainer.policy import load_model
from trainer.types import Sample
from trainer.weights.exports import export_directory

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALPHA = 16
TOLERANCE = 1e-4


def largest_difference(model: torch.nn.Module, prompt: Sequence[int], sample: Sample, version: int) -> float:
    """Between a model's log-probabilities of the tokens of one version and those that came with them; 0 without any."""
    ids = torch.tensor([[*prompt, *sample.token_ids]])
    with torch.no_grad():
        rows = torch.log_softmax(model(ids).logits[0, :-1], -1)
    own = rows.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0].tolist()
    places = [place for place, known in enumerate(sample.token_versions) if known == version]
    return max((abs(own[place] - sample.logprobs[place]) for place in places), default=0.0)


def check_all(directories: dict[int, Path], drawn: Sequence[tuple[Sequence[int], Sample]]) -> None:
    """Every token has the log-probability of the model of its version."""
    for version, directory in directories.items():
        model = load_model(directory).eval()
        for prompt, sample in drawn:
            assert largest_difference(model, prompt, sample, version) < TOLERANCE
    assert {version for _, sample in drawn for version in sample.token_versions} <= set(directories)


def export_adapter(root: Path, version: int, base: Path, seed: int) -> tuple[Path, torch.nn.Module]:
    """Write a random adapter in peft's layout; return its folder and the base model with it merged in."""
    model = load_model(base).eval()
    noise = torch.Generator().manual_seed(seed)
    rank = LORA_RANK // 2
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in model.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer.rpartition(".")[2] in TARGETS:
            down = 0.2 * torch.randn(rank, weight.shape[1], generator=noise)
            up = 0.2 * torch.randn(weight.shape[0], rank, generator=noise)
            tensors |= {
                f"base_model.model.{layer}.lora_A.weight": down,
                f"base_model.model.{layer}.lora_B.weight": up,
            }
            weight.add_(ALPHA / rank * up @ down)
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": ALPHA, "bias": "none"}
    with export_directory(root, version) as directory:
        save_file(tensors, directory / "adapter_model.safetensors")
        (directory / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": list(TARGETS)}))
    return root / f"v{version}", model
