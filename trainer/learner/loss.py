"""The clipped policy gradient on given advantages, as a sum over tokens, with what is worth watching.

Owns formulas on tensors; knows nothing of models, ranks or where advantages come from. Sums, not means: a minibatch's
loss is its weighted sum over all ranks and microbatches divided once by `batch.loss_total`, so that the result does not
depend on how rows are cut. Weights of 1 over the number of sampled tokens make a mean over tokens (DAPO, arXiv
2503.14476, equation 12); weights of 1 / |o_i| over the number of completions a mean over completions of each one's mean
over tokens (GRPO, arXiv 2402.03300, equation 3). Advantages are used as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from trainer.learner.batch import Microbatch

STATISTICS = (
    "loss",
    "ratio",
    "clipped",
    "kl",
    "mismatch",
    "entropy",
    "importance",
    "truncated",
    "kl_reference",
)
"""Order of the sums in `LossSums.statistics`: the loss as it is weighted, everything else over sampled tokens."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Ratios are clipped to [1 - low, 1 + high]; `high` may exceed `low`, so that rare good tokens can grow."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised.

    Attributes:
        clip: bounds of the ratio.
        importance_cap: None takes ratios to the sampling policy. Otherwise they are taken to the policy at the start of
            the step, and what that differs from the sampling policy by is a constant weight of at most this.
        kl: weight of KL(policy || reference), where rows have references.
        entropy: whether to measure the policy's entropy.
    """

    clip: Clip
    importance_cap: float | None = None
    kl: float = 0.0
    entropy: bool = False


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over the sampled tokens of one microbatch.

    Attributes:
        loss: what is to be differentiated, a scalar.
        statistics: without gradient, shape (9,), in the order of `STATISTICS`.
        largest_mismatch: largest |log ratio| to the sampling policy, a scalar without gradient.
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


def importance_weights(anchors: torch.Tensor, old_logprobs: torch.Tensor, cap: float) -> torch.Tensor:
    """Return min(p_anchor / p_sampled, cap) of each token, a constant.

    The loss -w min(r A, clip(r) A) with r = p / p_anchor is the decoupled objective of arXiv 2110.00641 (for
    language models AReaL, arXiv 2505.24298): the policy at the start of the step bounds how far the step goes, whatever
    its rollouts were sampled from, and w corrects for that. Truncation bounds the variance of w at the price of a bias
    (truncated importance sampling: Ionides 2008; for rollouts of another engine Yao et al. 2025, "TIS").
    """
    return torch.exp(anchors - old_logprobs).clamp(max=cap)


def divergence(logprobs: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Return Schulman's k3 of KL(policy || reference) per token, q / p - 1 - log(q / p), never negative.

    It estimates the divergence where the policy sampled the tokens (joschu.net/blog/kl-approx.html; GRPO, arXiv
    2402.03300, equation 4). Its derivative pulls each sampled token towards the reference: 1 - q / p per log p.
    """
    log_ratio = references - logprobs
    return torch.exp(log_ratio) - 1.0 - log_ratio


def loss_sums(logits: torch.Tensor, batch: Microbatch, objective: Objective) -> LossSums:
    """Return the loss and its statistics, summed over the sampled tokens of a microbatch.

    Args:
        logits: of positions `batch.first` to T - 2, shape (B, T - 1 - first, V).
        batch: the microbatch.
        objective: what is minimised.
    """
    actions, weights, old = (values[:, batch.first :] for values in (batch.actions, batch.weights, batch.old_logprobs))
    logprobs = torch.where(actions > 0, token_logprobs(logits, batch.targets), old)
    anchors, importance = _anchored(logprobs.detach(), old, batch, objective)
    losses = importance * clipped_policy_gradient(logprobs, anchors, batch.advantages, objective.clip)
    drift = torch.zeros_like(losses)
    if batch.references is not None:
        drift = divergence(logprobs, torch.where(actions > 0, batch.references[:, batch.first :], old))
        losses = losses + objective.kl * drift
    loss = (losses * weights).sum()
    with torch.no_grad():
        ratio, log_ratio = torch.exp(logprobs - anchors), logprobs - old
        bounded = ratio.clamp(1.0 - objective.clip.low, 1.0 + objective.clip.high)
        measured = {
            "ratio": ratio,
            "clipped": (bounded * batch.advantages < ratio * batch.advantages).float(),
            "kl": torch.exp(log_ratio) - 1.0 - log_ratio,
            "mismatch": log_ratio.abs(),
            "entropy": _entropies(logits) if objective.entropy else torch.zeros_like(ratio),
            "importance": importance,
            "truncated": (importance < torch.exp(anchors - old)).float(),
            "kl_reference": drift,
        }
        sums = [loss, *((measured[name] * actions).sum() for name in STATISTICS[1:])]
        return LossSums(loss=loss, statistics=torch.stack(sums), largest_mismatch=(log_ratio.abs() * actions).amax())


def _anchored(
    current: torch.Tensor, old: torch.Tensor, batch: Microbatch, objective: Objective
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities that ratios are taken to, and the weight of each token."""
    if objective.importance_cap is None:
        return old, torch.ones_like(old)
    anchors = current if batch.anchors is None else batch.anchors[:, batch.first :]
    return anchors, importance_weights(anchors, old, objective.importance_cap)


def _entropies(logits: torch.Tensor) -> torch.Tensor:
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    return -(logprobs.exp() * logprobs).sum(dim=-1)
