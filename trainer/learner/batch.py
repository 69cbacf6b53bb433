"""Ragged rollout groups as padded microbatches, the same number of them on every rank.

Owns the layout, how it is shared out, and what each token's loss weighs; owns no mathematics of policies. Rows are sorted by length before they are cut, so that
padding is small, and padded on the right: under causal attention no real token sees a pad, hence no attention mask. A
rank that has no rows left gets microbatches without weight, since in FSDP every rank must run as often as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from trainer.learner.scale import AdvantageScale, batch_spread, scaled
from trainer.types import RolloutGroup

Averaging = Literal["token_mean", "sequence_mean"]
"""Over what the loss is a mean: sampled tokens, or completions, of each the mean over its tokens."""


@dataclass(frozen=True, slots=True)
class Row:
    """One completion as the loss sees it.

    Attributes:
        prompt_ids: of its prompt.
        token_ids: sampled tokens.
        logprobs: of each, when it was sampled.
        advantage: of the completion.
        weight: factor of its loss.
        versions: weight version that sampled each token; empty where unknown.
        anchors: log-probability of each token under the policy that ratios are taken to, where that is neither the
            sampling nor the current one; empty elsewhere.
        references: the same under the reference policy; empty where there is none.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float
    weight: float = 1.0
    versions: tuple[int, ...] = ()
    anchors: tuple[float, ...] = ()
    references: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Microbatch:
    """`B` rows padded to `T` tokens; position t of what has shape (B, T - 1) is about token t + 1 of `input_ids`.

    Attributes:
        input_ids: shape (B, T).
        actions: 1 where the token was sampled by the policy, 0 elsewhere, shape (B, T - 1), float.
        weights: of the token's loss before that is divided by `loss_total`, shape (B, T - 1); 0 where `actions` is.
        old_logprobs: its log-probability when it was sampled, shape (B, T - 1); 0 elsewhere, as in the next two.
        anchors: of `Row.anchors`, shape (B, T - 1), or None.
        references: of `Row.references`, shape (B, T - 1), or None.
        advantages: of its completion, shape (B, 1).
        first: the first position with an action in any row: logits before it are not needed.
        places: of the rows in the batch that was cut; empty where the microbatch only keeps other ranks company.
    """

    input_ids: torch.Tensor
    actions: torch.Tensor
    weights: torch.Tensor
    old_logprobs: torch.Tensor
    anchors: torch.Tensor | None
    references: torch.Tensor | None
    advantages: torch.Tensor
    first: int
    places: tuple[int, ...]

    @property
    def targets(self) -> torch.Tensor:
        """Token ids that positions `first` to T - 2 predict, shape (B, T - 1 - first)."""
        return self.input_ids[:, self.first + 1 :]

    def to(self, device: torch.device) -> Microbatch:
        """Return the same on another device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            actions=self.actions.to(device),
            weights=self.weights.to(device),
            old_logprobs=self.old_logprobs.to(device),
            anchors=None if self.anchors is None else self.anchors.to(device),
            references=None if self.references is None else self.references.to(device),
            advantages=self.advantages.to(device),
        )


def rows(
    groups: Sequence[RolloutGroup],
    *,
    first_wave_only: bool = False,
    advantage_scale: AdvantageScale = "none",
) -> list[Row]:
    """Return one row per completion that has tokens and may carry an advantage, be it 0.

    Args:
        groups: finished ones; those that were granted nothing have no rows.
        first_wave_only: only first waves may carry advantages (`advantage_samples = "first_wave"`). Later samples have
            none by design; as rows they would only count as tokens, and shrink the step the more a group was extended.
        advantage_scale: what advantages are divided by; see `trainer.learner.scale`.
    """
    found = [
        Row(
            group.prompt_ids,
            sample.token_ids,
            sample.logprobs,
            advantage,
            weight=group.importance_weight,
            versions=sample.token_versions,
        )
        for group in groups
        for place, (sample, advantage) in enumerate(zip(group.samples, scaled(group, advantage_scale), strict=True))
        if sample.token_ids and (place < group.first_wave or not first_wave_only)
    ]
    if advantage_scale != "batch_std":
        return found
    spread = batch_spread([row.advantage for row in found])
    return [replace(row, advantage=row.advantage / spread) for row in found]


def action_tokens(batch: Sequence[Row]) -> int:
    """Return how many sampled tokens the rows hold."""
    return sum(len(row.token_ids) for row in batch)


def loss_total(batch: Sequence[Row], averaging: Averaging) -> int:
    """Return what the weighted sum of token losses is divided by: sampled tokens, or completions."""
    return action_tokens(batch) if averaging == "token_mean" else len(batch)


def staleness(batch: Sequence[Row], version: int | None) -> tuple[float, int]:
    """Return mean and largest age, in weight versions, of the sampled tokens; 0 where a version is not known."""
    if version is None:
        return 0.0, 0
    ages = [version - sampled for row in batch for sampled in row.versions]
    return (sum(ages) / len(ages), max(ages)) if ages else (0.0, 0)


def minibatches(batch: Sequence[Row], count: int, generator: torch.Generator) -> list[list[Row]]:
    """Deal shuffled rows into at most `count` minibatches of equal size, to within one row; none is empty."""
    order = torch.randperm(len(batch), generator=generator).tolist()
    return [[batch[index] for index in order[start::count]] for start in range(min(count, len(batch)))]


def microbatches(
    batch: Sequence[Row], *, token_budget: int, rank: int, ranks: int, averaging: Averaging = "token_mean"
) -> list[Microbatch]:
    """Return this rank's share of the rows, as many microbatches as every other rank gets.

    Args:
        batch: the rows of the whole minibatch, in the same order on every rank; not empty, none without tokens. All
            have anchors or none has, and the same for references.
        token_budget: most padded tokens in a microbatch; a single longer row is a microbatch of its own.
        rank: this rank.
        ranks: how many there are.
        averaging: what the loss is a mean over.
    """
    ordered = sorted(range(len(batch)), key=lambda place: len(batch[place]), reverse=True)
    cut = [_cut(batch, ordered[index::ranks], token_budget) for index in range(ranks)]
    own = [_pad(batch, places, averaging) for places in cut[rank]]
    filler = _weightless(_pad(batch, ordered[-1:], averaging))
    return own + [filler] * (max(map(len, cut)) - len(own))


def _cut(batch: Sequence[Row], share: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut places of rows, longest row first, into chunks whose padded size fits the budget."""
    chunks: list[list[int]] = []
    for place in share:
        if chunks and len(batch[chunks[-1][0]]) * (len(chunks[-1]) + 1) <= token_budget:
            chunks[-1].append(place)
        else:
            chunks.append([place])
    return chunks


def _pad(batch: Sequence[Row], places: Sequence[int], averaging: Averaging) -> Microbatch:
    chunk = [batch[place] for place in places]
    longest = max(map(len, chunk))
    input_ids = torch.zeros(len(chunk), longest, dtype=torch.long)
    for index, row in enumerate(chunk):
        input_ids[index, : len(row)] = torch.tensor(row.prompt_ids + row.token_ids)
    shares = [row.weight if averaging == "token_mean" else row.weight / len(row.token_ids) for row in chunk]
    return Microbatch(
        input_ids=input_ids,
        actions=_on_actions(chunk, [1.0] * len(chunk)),
        weights=_on_actions(chunk, shares),
        old_logprobs=_on_actions(chunk, [row.logprobs for row in chunk]),
        anchors=_on_actions(chunk, [row.anchors for row in chunk]) if chunk[0].anchors else None,
        references=_on_actions(chunk, [row.references for row in chunk]) if chunk[0].references else None,
        advantages=torch.tensor([[row.advantage] for row in chunk]),
        first=min(len(row.prompt_ids) for row in chunk) - 1,
        places=tuple(places),
    )


def _on_actions(chunk: Sequence[Row], values: Sequence[float | tuple[float, ...]]) -> torch.Tensor:
    """Return values, one per row or one per sampled token, where the token is predicted, and 0 elsewhere."""
    placed = torch.zeros(len(chunk), max(map(len, chunk)) - 1)
    for index, (row, value) in enumerate(zip(chunk, values, strict=True)):
        placed[index, len(row.prompt_ids) - 1 : len(row) - 1] = torch.tensor(value)
    return placed


def _weightless(part: Microbatch) -> Microbatch:
    nothing = torch.zeros_like(part.actions)
    return replace(part, actions=nothing, weights=nothing, places=())
