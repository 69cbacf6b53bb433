"""One optimiser, one sharded model: a step on ragged groups, weights out, log-probabilities of given completions.

Owns the order of forward, backward, reduce, clip and update. Every rank holds a `Learner` and calls the same methods in
the same order with the same arguments; `trainer.learner.ranks` sees to that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.config import LearnerSection
from trainer.learner import checkpoint
from trainer.learner.batch import Microbatch, Row, action_tokens, microbatches, minibatches
from trainer.learner.export import export
from trainer.learner.fsdp import World, clip_gradients, shard, synchronise_gradients
from trainer.learner.loss import STATISTICS, Clip, LossSums, loss_sums, token_logprobs
from trainer.policy import load_model, load_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class StepStatistics:
    """What a step did; means are over the sampled tokens of the batch's rows, and over minibatches.

    Attributes:
        loss: clipped policy-gradient loss per token.
        grad_norm: mean gradient norm before clipping.
        clip_fraction: share of tokens whose ratio was clipped.
        kl: estimate of KL(sampling policy || policy), mean of r - 1 - log r (Schulman's k3).
        entropy: of the policy per token; None unless asked for.
        mismatch: mean |log p - log p_server| before the first update: what serving and learning disagree by.
        largest_mismatch: its largest value.
        tokens: sampled tokens of the rows.
        updates: optimiser steps; one whose gradient is not finite is left out, as is a batch without advantages.
    """

    loss: float = 0.0
    ratio: float = 1.0
    grad_norm: float = 0.0
    clip_fraction: float = 0.0
    kl: float = 0.0
    entropy: float | None = None
    mismatch: float = 0.0
    largest_mismatch: float = 0.0
    tokens: int = 0
    updates: int = 0


class Learner:
    """The policy under training, sharded over the world.

    Args:
        start: folder of the first weights and the tokenizer.
        settings: of the loss and the optimiser.
        where: this rank.
        seed: of the shuffling of rows.
        temperature: of the rollouts. The policy that is learned is the one they are drawn from, with logits divided by it.
    """

    def __init__(
        self, start: Path, settings: LearnerSection, where: World, *, seed: int, temperature: float = 1.0
    ) -> None:
        self.settings = settings
        self.temperature = temperature
        self.world = where
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(start)
        self.model = load_model(start)
        if settings.activation_checkpointing:
            _recompute_activations(self.model)
        shard(self.model, where, dtype=DTYPES[settings.dtype])
        self.model.to(where.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.shuffle = torch.Generator().manual_seed(seed)

    def step(self, batch: Sequence[Row]) -> StepStatistics:
        """Learn from rows, the same on every rank: `epochs` passes of `minibatches` optimiser steps."""
        if not any(row.advantage for row in batch):
            return StepStatistics(tokens=action_tokens(batch))
        done = [
            self._update(chosen)
            for _ in range(self.settings.epochs)
            for chosen in minibatches(batch, self.settings.minibatches, self.shuffle)
        ]
        mean = torch.stack([update.means for update in done]).mean(dim=0)
        named = dict(zip(STATISTICS, mean.tolist(), strict=True))
        return StepStatistics(
            loss=named["loss"],
            ratio=named["ratio"],
            grad_norm=sum(update.grad_norm for update in done) / len(done),
            clip_fraction=named["clipped"],
            kl=named["kl"],
            entropy=named["entropy"] if self.settings.entropy else None,
            mismatch=float(done[0].means[STATISTICS.index("mismatch")]),
            largest_mismatch=done[0].largest_mismatch,
            tokens=action_tokens(batch),
            updates=sum(update.applied for update in done),
        )

    def logprobs(self, batch: Sequence[Row]) -> list[tuple[float, ...]]:
        """Return the log-probability of every sampled token of every row, as the current weights have it."""
        found: list[tuple[float, ...]] = []
        with torch.no_grad():
            for row in batch:
                (padded,) = microbatches([row], token_budget=len(row), rank=0, ranks=1)
                logits = self._logits(padded.to(self.world.device))
                values = token_logprobs(logits, padded.input_ids[:, padded.first + 1 :].to(self.world.device))
                found.append(tuple(values[0].tolist()))
        return found

    def export(self, root: Path, version: int, dtype: str) -> Path:
        """Write the weights as a Hugging Face folder `root/v{version}` and return it."""
        return export(self.model, self.tokenizer, self.world, root=root, version=version, dtype=DTYPES[dtype])

    def save(self, root: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
        """Write a checkpoint `root/step-N` with the loop's own state and return it."""
        return checkpoint.save(self._subject, self.world, root=root, step=step, state=state, keep=keep)

    def load(self, directory: Path) -> dict[str, Any]:
        """Restore a checkpoint and return the loop's own state."""
        return checkpoint.load(self._subject, self.world, directory)

    @property
    def _subject(self) -> checkpoint.Subject:
        return checkpoint.Subject(self.model, self.optimizer, self.shuffle)

    def _update(self, batch: Sequence[Row]) -> _Update:
        """Take one optimiser step on a minibatch.

        FSDP averages gradients over ranks, so the local sum is divided by tokens / ranks: what comes out is the gradient
        of the sum over all ranks divided by all tokens.
        """
        tokens = action_tokens(batch)
        parts = microbatches(
            batch, token_budget=self.settings.microbatch_tokens, rank=self.world.rank, ranks=self.world.size
        )
        self.optimizer.zero_grad()
        sums: list[LossSums] = []
        for index, part in enumerate(parts):
            synchronise_gradients(self.model, last=index == len(parts) - 1)
            sums.append(self._accumulate(part.to(self.world.device), self.world.size / tokens))
        grad_norm = clip_gradients(self.model, self.settings.grad_clip)
        finite = math.isfinite(grad_norm)
        if finite:
            self.optimizer.step()
        return _Update(
            means=self.world.sum(torch.stack([item.statistics for item in sums]).sum(dim=0)).cpu() / tokens,
            largest_mismatch=float(self.world.largest(torch.stack([item.largest_mismatch for item in sums]).amax())),
            grad_norm=grad_norm,
            applied=finite,
        )

    def _accumulate(self, part: Microbatch, scale: float) -> LossSums:
        clip = Clip(self.settings.clip_low, self.settings.clip_high)
        sums = loss_sums(self._logits(part), part, clip, entropy=self.settings.entropy)
        (sums.loss * scale).backward()  # type: ignore[no-untyped-call] # torch's own stub
        return sums

    def _logits(self, part: Microbatch) -> torch.Tensor:
        """Return logits at the rollouts' temperature, from position `first` on without the last, (B, T - 1 - first, V)."""
        inputs = part.input_ids[:, :-1]
        logits: torch.Tensor = self.model(
            input_ids=inputs, use_cache=False, logits_to_keep=inputs.shape[1] - part.first
        ).logits
        return logits if self.temperature == 1.0 else logits / self.temperature


def _recompute_activations(model: PreTrainedModel) -> None:
    """Keep no activations of decoder layers. They recompute only in training mode, which their dropout must not be in."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        module.training = isinstance(module, GradientCheckpointingLayer)


@dataclass(frozen=True, slots=True)
class _Update:
    means: torch.Tensor
    largest_mismatch: float
    grad_norm: float
    applied: bool
