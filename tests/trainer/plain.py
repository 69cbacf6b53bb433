"""The learner's update once more, plainly: one process, one row at a time, no sharding, none of its code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from trainer.learner.batch import Row


def row_logprobs(model: PreTrainedModel, row: Row) -> torch.Tensor:
    """Return log-probabilities of a row's sampled tokens, shape (tokens,)."""
    ids = torch.tensor([row.prompt_ids + row.token_ids])
    every = torch.log_softmax(model(input_ids=ids[:, :-1]).logits, -1).gather(-1, ids[:, 1:, None])[0, :, 0]
    return every[len(row.prompt_ids) - 1 :]


def plain_loss(
    model: PreTrainedModel,
    batch: Sequence[Row],
    *,
    sequence_mean: bool = False,
    cap: float | None = None,
    anchors: Sequence[torch.Tensor] | None = None,
    kl: float = 0.0,
    reference: PreTrainedModel | None = None,
) -> torch.Tensor:
    """Return the loss of a batch with the clip [0.8, 1.28]: a mean over tokens or over completions.

    With a cap, ratios are to `anchors` (the current policy where they are not given), and tokens weigh
    min(p_anchor / p_sampled, cap).
    """
    losses = []
    for index, row in enumerate(batch):
        new, old = row_logprobs(model, row), torch.tensor(row.logprobs)
        anchor, weight = old, torch.ones_like(old)
        if cap is not None:
            anchor = new.detach() if anchors is None else anchors[index]
            weight = torch.minimum(torch.exp(anchor) / torch.exp(old), torch.tensor(cap))
        ratio = torch.exp(new - anchor)
        token = -weight * torch.minimum(ratio * row.advantage, ratio.clamp(0.8, 1.28) * row.advantage)
        if reference is not None:
            with torch.no_grad():
                first = row_logprobs(reference, row)
            token = token + kl * (torch.exp(first) / torch.exp(new) - 1 - (first - new))
        losses.append(row.weight * token)
    if sequence_mean:
        return torch.stack([loss.mean() for loss in losses]).mean()
    return torch.cat(losses).mean()
