"""The same update as one would write it without this project: one process, one device, no sharding.

Rows are sorted by length, padded and accumulated in microbatches of the same size; low precision is autocast over float32
weights; optimisers, adapters and recomputation are PyTorch's and peft's own.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from trainer.config import LearnerSection
from trainer.learner.batch import Row
from trainer.learner.lora import with_adapters, without_adapters
from trainer.policy import load_model


class PlainLoop:
    """A model, its optimisers, and a step."""

    def __init__(self, start: Path, settings: LearnerSection, device: torch.device) -> None:
        self._settings = settings
        self._device = device
        self.model: PreTrainedModel = load_model(start)
        self._first = copy.deepcopy(self.model).to(device) if settings.kl and not settings.lora.rank else None
        if settings.lora.rank:
            self.model = with_adapters(self.model, settings.lora, start=start, seed=0)
        if settings.activation_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
            self.model.train()
        self.model.to(device)
        self._optimizers = _optimizers(self.model, settings)

    def step(self, rows: Sequence[Row]) -> float:
        """Learn from rows and return the gradient's norm."""
        total = sum(len(row.token_ids) for row in rows)
        for chunk in _chunks(rows, self._settings.microbatch_tokens):
            (self._loss(chunk) / total).backward()  # type: ignore[no-untyped-call] # torch's own stub
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.grad_clip)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return float(norm)

    def _loss(self, chunk: Sequence[Row]) -> torch.Tensor:
        longest = max(map(len, chunk))
        ids = torch.tensor([[*row.prompt_ids, *row.token_ids] + [0] * (longest - len(row)) for row in chunk])
        sampled = torch.zeros(len(chunk), longest - 1)
        old, advantages = torch.zeros_like(sampled), torch.tensor([[row.advantage] for row in chunk])
        for index, row in enumerate(chunk):
            sampled[index, len(row.prompt_ids) - 1 : len(row) - 1] = 1.0
            old[index, len(row.prompt_ids) - 1 : len(row) - 1] = torch.tensor(row.logprobs)
        start = min(len(row.prompt_ids) for row in chunk) - 1
        ids, advantages = ids.to(self._device), advantages.to(self._device)
        sampled, old = sampled[:, start:].to(self._device), old[:, start:].to(self._device)
        new = self._logprobs(self.model, ids, start)
        ratio = torch.exp(torch.where(sampled > 0, new - old, 0.0))
        low, high = 1.0 - self._settings.clip_low, 1.0 + self._settings.clip_high
        loss = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
        if self._settings.kl:
            with torch.no_grad(), without_adapters(self.model) if self._first is None else contextlib.nullcontext():
                gap = self._logprobs(self._first or self.model, ids, start)
            gap = torch.where(sampled > 0, gap - new, 0.0)
            loss = loss + self._settings.kl * (torch.exp(gap) - 1.0 - gap)
        return (loss * sampled).sum()

    def _logprobs(self, model: PreTrainedModel, ids: torch.Tensor, start: int) -> torch.Tensor:
        low = self._settings.dtype == "bfloat16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=low):
            logits = model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=ids.shape[1] - 1 - start).logits
        targets = ids[:, start + 1 :]
        return -cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def _chunks(rows: Sequence[Row], budget: int) -> list[list[Row]]:
    chunks: list[list[Row]] = []
    for row in sorted(rows, key=len, reverse=True):
        if not chunks or len(chunks[-1][0]) * (len(chunks[-1]) + 1) > budget:
            chunks.append([])
        chunks[-1].append(row)
    return chunks


def _optimizers(model: PreTrainedModel, settings: LearnerSection) -> list[torch.optim.Optimizer]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kinds: dict[str, Any] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
        "adafactor": torch.optim.Adafactor,
    }
    if settings.optimizer != "muon":
        return [kinds[settings.optimizer](trained, lr=settings.lr, weight_decay=settings.weight_decay)]
    layers = [value for name, value in model.named_parameters() if "layers" in name and value.ndim == 2]
    rest = [value for name, value in model.named_parameters() if "layers" not in name or value.ndim != 2]
    return [
        torch.optim.Muon(layers, lr=settings.lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=settings.lr, weight_decay=settings.weight_decay),
    ]
