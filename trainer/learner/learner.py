"""One policy under training, sharded: a step on ragged groups, weights out, log-probabilities of given completions.

Owns the order of forward, backward, reduce, clip and update. Every rank holds a `Learner` and calls the same methods in
the same order with the same arguments; `trainer.learner.ranks` sees to that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import LearnerSection
from trainer.learner import checkpoint
from trainer.learner.batch import (
    Microbatch,
    Row,
    action_tokens,
    loss_total,
    microbatches,
    minibatches,
    staleness,
)
from trainer.learner.export import export
from trainer.learner.fsdp import World, clip_gradients, synchronise_gradients
from trainer.learner.lora import export_adapters, without_adapters
from trainer.learner.loss import STATISTICS, Clip, LossSums, Objective, loss_sums, token_logprobs
from trainer.learner.meter import Meter
from trainer.learner.models import DTYPES, frozen_reference, trainable_policy
from trainer.learner.optimizers import make_optimizers, set_learning_rate
from trainer.policy import load_tokenizer


@dataclass(frozen=True, slots=True)
class StepStatistics:
    """What a step did; means are over the sampled tokens of the batch's rows, and over the updates that were applied.

    Attributes:
        loss: per token or per completion, as `learner.loss` has it, the divergence from the reference included.
        ratio: mean ratio to the policy that ratios are taken to.
        grad_norm: mean gradient norm before clipping.
        clip_fraction: share of tokens whose ratio was clipped.
        kl: estimate of KL(sampling policy || policy), mean of r - 1 - log r (Schulman's k3).
        kl_reference: estimate of KL(policy || first policy); None unless `learner.kl` is above 0.
        entropy: of the policy per token; None unless asked for.
        mismatch: mean |log p - log p_server| before the first update: what serving and learning disagree by.
        largest_mismatch: its largest value.
        importance: mean weight of tokens for having been sampled from another policy; 1 unless `learner.importance`.
        truncated: share of tokens whose weight was cut at `learner.importance_cap`.
        mean_staleness: mean age of sampled tokens, in weight versions; 0 where versions are not known.
        max_staleness: the largest age.
        tokens: sampled tokens of the rows.
        updates: optimiser steps that were applied.
        skipped: those left out because loss, gradient or a log-probability was not finite; the weights are as if they had not been tried.
        tokens_per_second: all tokens through forward and backward passes, prompts included, per second of the step.
        peak_memory_bytes: most of any rank: allocated on its GPU during the step; on CPUs its process's peak so far.
    """

    loss: float = 0.0
    ratio: float = 1.0
    grad_norm: float = 0.0
    clip_fraction: float = 0.0
    kl: float = 0.0
    kl_reference: float | None = None
    entropy: float | None = None
    mismatch: float = 0.0
    largest_mismatch: float = 0.0
    importance: float = 1.0
    truncated: float = 0.0
    mean_staleness: float = 0.0
    max_staleness: int = 0
    tokens: int = 0
    updates: int = 0
    skipped: int = 0
    tokens_per_second: float = field(default=0.0, compare=False)
    peak_memory_bytes: int = field(default=0, compare=False)


class Learner:
    """The policy under training, sharded over the world.

    Args:
        start: folder of the first weights and the tokenizer.
        settings: of the loss and the optimiser.
        where: this rank.
        seed: of the shuffling of rows, and of adapters' first weights.
        temperature: of the rollouts. The policy that is learned is the one they are drawn from, with logits divided by it.

    Raises:
        ConfigError: the model cannot be given the adapters asked for.
    """

    def __init__(
        self, start: Path, settings: LearnerSection, where: World, *, seed: int, temperature: float = 1.0
    ) -> None:
        self.settings = settings
        self.temperature = temperature
        self.world = where
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(start)
        self.model = trainable_policy(start, settings, where, seed=seed)
        self.optimizers = make_optimizers(self.model, settings)
        self.shuffle = torch.Generator().manual_seed(seed)
        self._steps = torch.zeros((), dtype=torch.int64)
        copied = settings.kl > 0 and not self._adapted
        self._reference = frozen_reference(start, settings, where) if copied else self.model
        self._objective = Objective(
            Clip(settings.clip_low, settings.clip_high),
            importance_cap=settings.importance_cap if settings.importance == "truncated" else None,
            kl=settings.kl,
            entropy=settings.entropy,
        )

    def step(self, batch: Sequence[Row], version: int | None = None) -> StepStatistics:
        """Learn from rows, the same on every rank: `epochs` passes of `minibatches` optimiser steps.

        Args:
            batch: the rows. Where all advantages are 0 and no reference pulls, there is nothing to learn and no update.
            version: of the current weights, against which the age of tokens is told.
        """
        meter = Meter(self.world.device)
        settings, age = self.settings, staleness(batch, version)
        if not batch or not (settings.kl or any(row.advantage for row in batch)):
            return StepStatistics(tokens=action_tokens(batch), mean_staleness=age[0], max_staleness=age[1])
        self._steps += 1
        set_learning_rate(self.optimizers, settings.lr * min(1.0, int(self._steps) / max(1, settings.lr_warmup_steps)))
        anchored = self._anchored(batch)
        done = [
            self._update(chosen)
            for _ in range(settings.epochs)
            for chosen in minibatches(anchored, settings.minibatches, self.shuffle)
        ]
        peak = torch.tensor(float(meter.peak_memory_bytes()), dtype=torch.float64)
        return replace(
            self._statistics(done),
            mean_staleness=age[0],
            max_staleness=age[1],
            tokens=action_tokens(batch),
            tokens_per_second=meter.per_second(settings.epochs * sum(map(len, batch))),
            peak_memory_bytes=int(self.world.largest(peak)),
        )

    def logprobs(self, batch: Sequence[Row]) -> list[tuple[float, ...]]:
        """Return the log-probability of every sampled token of every row, as the current weights have it."""
        scored = iter(self._scores([row for row in batch if row.token_ids], self.model))
        return [next(scored) if row.token_ids else () for row in batch]

    def export(self, root: Path, version: int, dtype: str) -> Path:
        """Write `root/v{version}` and return it: a Hugging Face model, or with `learner.lora` its adapters alone."""
        if self._adapted:
            return export_adapters(self.model, self.world, root=root, version=version, dtype=DTYPES[dtype])
        return export(self.model, self.tokenizer, self.world, root=root, version=version, dtype=DTYPES[dtype])

    def save(self, root: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
        """Write a checkpoint `root/step-N` with the loop's own state and return it."""
        return checkpoint.save(self._subject, self.world, root=root, step=step, state=state, keep=keep)

    def load(self, directory: Path) -> dict[str, Any]:
        """Restore a checkpoint and return the loop's own state."""
        return checkpoint.load(self._subject, self.world, directory)

    @property
    def _adapted(self) -> bool:
        return self.settings.lora.rank > 0

    @property
    def _subject(self) -> checkpoint.Subject:
        return checkpoint.Subject(self.model, self.optimizers, self.shuffle, self._steps)

    def _anchored(self, batch: Sequence[Row]) -> Sequence[Row]:
        """Add what policies that stay fixed during the step say of its tokens.

        A step of a single update needs no pass for its anchors: the policy at its start is the one of its forward pass.
        """
        if self._objective.importance_cap is not None and self.settings.epochs * self.settings.minibatches > 1:
            scores = self._scores(batch, self.model)
            batch = [replace(row, anchors=found) for row, found in zip(batch, scores, strict=True)]
        if self.settings.kl:
            with without_adapters(self.model) if self._adapted else nullcontext():
                scores = self._scores(batch, self._reference)
            batch = [replace(row, references=found) for row, found in zip(batch, scores, strict=True)]
        return batch

    @torch.no_grad()
    def _scores(self, batch: Sequence[Row], model: PreTrainedModel) -> list[tuple[float, ...]]:
        """Return log-probabilities of rows with tokens under a sharded model; each rank computes a share."""
        if not batch:
            return []
        lengths = [len(row.token_ids) for row in batch]
        starts = list(accumulate(lengths, initial=0))
        found = torch.zeros(starts[-1], device=self.world.device)
        for part in self._cut(batch):
            values = token_logprobs(self._logits(model, part), part.targets)[part.actions[:, part.first :] > 0]
            if part.places:
                own = torch.split(values, [lengths[place] for place in part.places])
                for place, value in zip(part.places, own, strict=True):
                    found[starts[place] : starts[place + 1]] = value
        whole = torch.split(self.world.sum(found).cpu(), lengths)
        return [tuple(value.tolist()) for value in whole]

    def _update(self, batch: Sequence[Row]) -> _Update:
        """Take one optimiser step on a minibatch, unless its loss, its gradient or a log-probability is not finite.

        FSDP averages gradients over ranks, so the local sum is divided by its total / ranks: what comes out is the
        gradient of the sum over all ranks divided by the total.
        """
        total = loss_total(batch, self.settings.loss)
        parts = self._cut(batch)
        sums: list[LossSums] = []
        for index, part in enumerate(parts):
            synchronise_gradients(self.model, last=index == len(parts) - 1)
            sums.append(self._accumulate(part, self.world.size / total))
        grad_norm = clip_gradients(self.model, self.settings.grad_clip)
        measured = self.world.sum(torch.stack([item.statistics for item in sums]).sum(dim=0)).cpu()
        means = measured / action_tokens(batch)
        means[0] = measured[0] / total
        watched = (grad_norm, float(means[0]), float(means[STATISTICS.index("mismatch")]))
        finite = all(math.isfinite(value) for value in watched)
        for optimizer in self.optimizers if finite else ():
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        return _Update(
            means=means,
            largest_mismatch=float(self.world.largest(torch.stack([item.largest_mismatch for item in sums]).amax())),
            grad_norm=grad_norm,
            applied=finite,
        )

    def _accumulate(self, part: Microbatch, scale: float) -> LossSums:
        sums = loss_sums(self._logits(self.model, part), part, self._objective)
        (sums.loss * scale).backward()  # type: ignore[no-untyped-call] # torch's own stub
        return sums

    def _cut(self, batch: Sequence[Row]) -> list[Microbatch]:
        """Return this rank's microbatches, on its device."""
        parts = microbatches(
            batch,
            token_budget=self.settings.microbatch_tokens,
            rank=self.world.rank,
            ranks=self.world.size,
            averaging=self.settings.loss,
        )
        return [part.to(self.world.device) for part in parts]

    def _logits(self, model: PreTrainedModel, part: Microbatch) -> torch.Tensor:
        """Return logits at the rollouts' temperature, from position `first` on without the last, (B, T - 1 - first, V)."""
        inputs = part.input_ids[:, :-1]
        logits: torch.Tensor = model(
            input_ids=inputs, use_cache=False, logits_to_keep=inputs.shape[1] - part.first
        ).logits
        return logits if self.temperature == 1.0 else logits / self.temperature

    def _statistics(self, done: Sequence[_Update]) -> StepStatistics:
        """Average over the updates that were applied; over all, which shows what went wrong, where none was."""
        applied = [update for update in done if update.applied]
        counted = applied or done
        mean = dict(
            zip(STATISTICS, torch.stack([update.means for update in counted]).mean(dim=0).tolist(), strict=True)
        )
        return StepStatistics(
            loss=mean["loss"],
            ratio=mean["ratio"],
            grad_norm=sum(update.grad_norm for update in counted) / len(counted),
            clip_fraction=mean["clipped"],
            kl=mean["kl"],
            kl_reference=mean["kl_reference"] if self.settings.kl else None,
            entropy=mean["entropy"] if self.settings.entropy else None,
            mismatch=float(done[0].means[STATISTICS.index("mismatch")]),
            largest_mismatch=done[0].largest_mismatch,
            importance=mean["importance"],
            truncated=mean["truncated"],
            updates=len(applied),
            skipped=len(done) - len(applied),
        )


@dataclass(frozen=True, slots=True)
class _Update:
    means: torch.Tensor
    largest_mismatch: float
    grad_norm: float
    applied: bool
