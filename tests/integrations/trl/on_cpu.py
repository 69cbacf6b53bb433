"""What TRL's asynchronous trainer takes from a GPU, for a CPU: FlashAttention 3 in plain PyTorch, and no peak FLOP rate.

Nothing else of TRL is replaced. Runs in TRL's own environment.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from trl.experimental.async_grpo import async_grpo_trainer, packing


def flash_attn_varlen_func(  # noqa: PLR0917 - FlashAttention's own form
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts_q: torch.Tensor,
    starts_k: torch.Tensor,
    longest_q: int,
    longest_k: int,
    *,
    softmax_scale: float | None,
    causal: bool,
    window_size: tuple[int, int],
    **more: Any,
) -> torch.Tensor:
    """Return attention (tokens, heads, channels) of packed segments, each query seeing its segment's keys up to its own.

    The last query of a segment sees all its keys, as in FlashAttention.
    """
    assert causal
    assert window_size == (-1, -1)
    assert not more
    out = torch.empty_like(query)
    bounds = zip(starts_q[:-1], starts_q[1:], starts_k[:-1], starts_k[1:], strict=True)
    for first_q, end_q, first_k, end_k in bounds:
        q, k, v = (part.transpose(0, 1) for part in (query[first_q:end_q], key[first_k:end_k], value[first_k:end_k]))
        rows, columns = q.shape[1], k.shape[1]
        seen = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
        part = scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=softmax_scale, enable_gqa=True)
        out[first_q:end_q] = part.transpose(0, 1)
    return out


def install() -> None:
    """Let TRL find the function where it would load the kernel, and ask no GPU for its name."""
    kernel = SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func)
    packing._flash_attn = lambda: kernel
    async_grpo_trainer.get_peak_flops_per_device = lambda *_: None
