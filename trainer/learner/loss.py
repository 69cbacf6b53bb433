"""The clipped policy gradient on given advantages, as a sum over tokens, with what is worth watching.

Owns formulas on tensors; knows nothing of models, ranks or where advantages come from. Sums, not means: a minibatch's
loss is its sum over all ranks and microbatches divided once by its sampled tokens, so every token weighs the same however
rows are cut (token-mean loss: DAPO, arXiv 2503.14476, equation 12). Advantages are used as they are: never divided by a
group's standard deviation, since a group with an outside baseline and equal outcomes is signal, not noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from trainer.learner.batch import Microbatch

STATISTICS = ("loss", "ratio", "clipped", "kl", "mismatch", "entropy")
"""Order of the sums in `LossSums.statistics`, each over sampled tokens."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Ratios are clipped to [1 - low, 1 + high]; `high` may exceed `low`, so that rare good tokens can grow."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over the sampled tokens of one microbatch.

    Attributes:
        loss: what is to be differentiated, a scalar.
        statistics: without gradient, shape (6,), in the order of `STATISTICS`.
        largest_mismatch: largest |log ratio|, a scalar without gradient.
    """

    loss: torch.Tensor
    statistics: torch.Tensor
    largest_mismatch: torch.Tensor


def token_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return log p(target) per position.

    Args:
        logits: shape (B, L, V), any floating type; computed on in float32.
        targets: token ids, shape (B, L).
    """
    losses = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return -losses.view(targets.shape)


def clipped_policy_gradient(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip: Clip
) -> torch.Tensor:
    """Return the loss of each token, -min(r A, clip(r) A) with r = p / p_old (PPO, arXiv 1707.06347, equation 7)."""
    ratio = torch.exp(logprobs - old_logprobs)
    bounded = ratio.clamp(1.0 - clip.low, 1.0 + clip.high)
    return -torch.minimum(ratio * advantages, bounded * advantages)


def loss_sums(logits: torch.Tensor, batch: Microbatch, clip: Clip, *, entropy: bool) -> LossSums:
    """Return the loss and its statistics, summed over the sampled tokens of a microbatch.

    Args:
        logits: of positions `batch.first` to T - 2, shape (B, T - 1 - first, V).
        batch: the microbatch.
        clip: bounds of the ratio.
        entropy: also sum the policy's entropy; 0 otherwise.
    """
    weights, old = batch.actions[:, batch.first :], batch.old_logprobs[:, batch.first :]
    logprobs = token_logprobs(logits, batch.input_ids[:, batch.first + 1 :])
    logprobs = torch.where(weights > 0, logprobs, old)
    losses = clipped_policy_gradient(logprobs, old, batch.advantages, clip) * weights
    loss = losses.sum()
    with torch.no_grad():
        log_ratio = logprobs - old
        ratio = torch.exp(log_ratio)
        bounded = ratio.clamp(1.0 - clip.low, 1.0 + clip.high)
        clipped = (bounded * batch.advantages < ratio * batch.advantages).float()
        sums = (
            loss,
            (ratio * weights).sum(),
            (clipped * weights).sum(),
            ((ratio - 1.0 - log_ratio) * weights).sum(),
            (log_ratio.abs() * weights).sum(),
            (_entropies(logits) * weights).sum() if entropy else torch.zeros_like(loss),
        )
        return LossSums(loss=loss, statistics=torch.stack(sums), largest_mismatch=(log_ratio.abs() * weights).amax())


def _entropies(logits: torch.Tensor) -> torch.Tensor:
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    return -(logprobs.exp() * logprobs).sum(dim=-1)
