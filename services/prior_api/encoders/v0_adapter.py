"""V0's adapter (arXiv 2602.03584, section 3): token states in, one row of features out. Imports torch.

A set of learned queries, plus a residual that a small network makes from the last token's state, attends over all
token states projected to the queries' width; the answers of all queries, side by side, are the features. The names of
parameters are those of the published training code (github.com/Now-Join-Us/V0, `v0_core/models/v0.py`,
`DynamicQueryAdapter`), so that its checkpoints load.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the published checkpoint by default: 168 queries of width 6 make 1,008 features."""

    input_width: int = 1024
    queries: int = 168
    width: int = 6
    heads: int = 3
    bottleneck: int = 128

    @property
    def features(self) -> int:
        """Numbers per text."""
        return self.queries * self.width

    @classmethod
    def of(cls, state: dict[str, Tensor], heads: int) -> Shape:
        """Read the sizes off a state; how many heads share a width cannot be seen there.

        Raises:
            KeyError: an entry is missing.
        """
        _, queries, width = state["static_queries"].shape
        bottleneck, input_width = state["generator.0.weight"].shape
        return cls(input_width, queries, width, heads, bottleneck)


class Adapter(nn.Module):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.static_queries = nn.Parameter(torch.zeros(1, shape.queries, shape.width))
        self.generator = nn.Sequential(
            nn.Linear(shape.input_width, shape.bottleneck),
            nn.LayerNorm(shape.bottleneck),
            nn.GELU(),
            nn.Identity(),  # dropout while it was trained; keeps the place of the last layer's name
            nn.Linear(shape.bottleneck, shape.features),
        )
        self.proj_kv = nn.Linear(shape.input_width, shape.width)
        self.mha = nn.MultiheadAttention(shape.width, shape.heads, batch_first=True)
        self.ln_q = nn.LayerNorm(shape.width)
        self.ln_kv = nn.LayerNorm(shape.width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return shape (batch, features) of `states` (batch, tokens, input_width) and a `mask` of 1 at real tokens.

        Where the padding stands does not matter: the last real token is found by the mask.
        """
        batch, tokens, _ = states.shape
        positions = torch.arange(tokens, device=mask.device)
        last = (positions * mask).argmax(dim=1)
        residual = self.generator(states[torch.arange(batch, device=states.device), last])
        queries = self.static_queries + residual.view(batch, self.shape.queries, self.shape.width)
        values = self.proj_kv(states)
        answers, _ = self.mha(
            query=self.ln_q(queries),
            key=self.ln_kv(values),
            value=values,
            key_padding_mask=mask == 0,
            need_weights=False,
        )
        features: Tensor = answers.reshape(batch, self.shape.features)
        return features
