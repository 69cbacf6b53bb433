"""Ragged rollout groups as padded microbatches, the same number of them on every rank.

Owns the layout and how it is shared out; owns no mathematics. Rows are sorted by length before they are cut, so that
padding is small, and padded on the right: under causal attention no real token sees a pad, hence no attention mask. A
rank that has no rows left gets microbatches without weight, since in FSDP every rank must run as often as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer.types import RolloutGroup


@dataclass(frozen=True, slots=True)
class Row:
    """One completion as the loss sees it: a prompt, sampled tokens with their log-probabilities, one advantage."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Microbatch:
    """`B` rows padded to `T` tokens; position t of the last three predicts token t + 1 of `input_ids`.

    Attributes:
        input_ids: shape (B, T).
        actions: whether token t + 1 was sampled by the policy, shape (B, T - 1), float: the weight of its loss.
        old_logprobs: its log-probability when it was sampled, shape (B, T - 1); 0 elsewhere.
        advantages: of its completion, shape (B, 1).
        first: the first position with an action in any row: logits before it are not needed.
    """

    input_ids: torch.Tensor
    actions: torch.Tensor
    old_logprobs: torch.Tensor
    advantages: torch.Tensor
    first: int

    def to(self, device: torch.device) -> Microbatch:
        """Return the same on another device."""
        return Microbatch(
            input_ids=self.input_ids.to(device),
            actions=self.actions.to(device),
            old_logprobs=self.old_logprobs.to(device),
            advantages=self.advantages.to(device),
            first=self.first,
        )


def rows(groups: Sequence[RolloutGroup], *, first_wave_only: bool = False) -> list[Row]:
    """Return one row per completion that has tokens and may carry an advantage, be it 0.

    Args:
        groups: finished ones; those that were granted nothing have no rows.
        first_wave_only: only first waves may carry advantages (`advantage_samples = "first_wave"`). Later samples have
            none by design; as rows they would only count as tokens, and shrink the step the more a group was extended.
    """
    return [
        Row(group.prompt_ids, sample.token_ids, sample.logprobs, advantage)
        for group in groups
        for place, (sample, advantage) in enumerate(zip(group.samples, group.advantages, strict=True))
        if sample.token_ids and (place < group.first_wave or not first_wave_only)
    ]


def action_tokens(batch: Sequence[Row]) -> int:
    """Return how many sampled tokens the rows hold: what a token-weighted loss is divided by."""
    return sum(len(row.token_ids) for row in batch)


def minibatches(batch: Sequence[Row], count: int, generator: torch.Generator) -> list[list[Row]]:
    """Deal shuffled rows into at most `count` minibatches of equal size, to within one row; none is empty."""
    order = torch.randperm(len(batch), generator=generator).tolist()
    return [[batch[index] for index in order[start::count]] for start in range(min(count, len(batch)))]


def microbatches(batch: Sequence[Row], *, token_budget: int, rank: int, ranks: int) -> list[Microbatch]:
    """Return this rank's share of the rows, as many microbatches as every other rank gets.

    Args:
        batch: the rows of the whole minibatch, in the same order on every rank; not empty.
        token_budget: most padded tokens in a microbatch; a single longer row is a microbatch of its own.
        rank: this rank.
        ranks: how many there are.
    """
    ordered = sorted(batch, key=len, reverse=True)
    shares = [ordered[index::ranks] for index in range(ranks)]
    cut = [_cut(share, token_budget) for share in shares]
    own = [_pad(chunk) for chunk in cut[rank]]
    filler = _weightless(ordered[-1])
    return own + [filler] * (max(map(len, cut)) - len(own))


def _cut(share: Sequence[Row], token_budget: int) -> list[list[Row]]:
    """Cut rows, longest first, into chunks whose padded size fits the budget."""
    chunks: list[list[Row]] = []
    for row in share:
        if chunks and len(chunks[-1][0]) * (len(chunks[-1]) + 1) <= token_budget:
            chunks[-1].append(row)
        else:
            chunks.append([row])
    return chunks


def _pad(chunk: Sequence[Row]) -> Microbatch:
    longest = max(map(len, chunk))
    input_ids = torch.zeros(len(chunk), longest, dtype=torch.long)
    actions = torch.zeros(len(chunk), longest - 1)
    old_logprobs = torch.zeros(len(chunk), longest - 1)
    for index, row in enumerate(chunk):
        sampled = slice(len(row.prompt_ids) - 1, len(row) - 1)
        input_ids[index, : len(row)] = torch.tensor(row.prompt_ids + row.token_ids)
        actions[index, sampled] = 1.0
        old_logprobs[index, sampled] = torch.tensor(row.logprobs)
    return Microbatch(
        input_ids=input_ids,
        actions=actions,
        old_logprobs=old_logprobs,
        advantages=torch.tensor([[row.advantage] for row in chunk]),
        first=min(len(row.prompt_ids) for row in chunk) - 1,
    )


def _weightless(row: Row) -> Microbatch:
    padded = _pad([row])
    return Microbatch(
        input_ids=padded.input_ids,
        actions=torch.zeros_like(padded.actions),
        old_logprobs=padded.old_logprobs,
        advantages=padded.advantages,
        first=padded.first,
    )
