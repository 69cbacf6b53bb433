"""Models with random weights, settings to compare, and ragged rows to learn from.

Speed depends on shapes, not on what weights say, so no model is downloaded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from trainer.learner.batch import Row
from trainer.policy import character_tokenizer

RESERVED = 4
"""Token ids below are special ones."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A model and the rows of one step.

    Attributes:
        model: arguments of a Qwen3 configuration.
        rows: completions of a step.
        prompt: fewest and most tokens of a prompt.
        completion: fewest and most sampled tokens.
        microbatch_tokens: padded tokens of a forward pass.
    """

    model: dict[str, Any]
    rows: int
    prompt: tuple[int, int]
    completion: tuple[int, int]
    microbatch_tokens: int


SHAPES = {
    "small": Shape(
        model={
            "vocab_size": 2048,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "tie_word_embeddings": False,
        },
        rows=16,
        prompt=(24, 48),
        completion=(8, 128),
        microbatch_tokens=1024,
    ),
    "medium": Shape(
        model={
            "vocab_size": 8192,
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "tie_word_embeddings": False,
        },
        rows=16,
        prompt=(24, 48),
        completion=(8, 128),
        microbatch_tokens=1024,
    ),
    "0.5b": Shape(
        model={
            "vocab_size": 151_936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "tie_word_embeddings": True,
        },
        rows=256,
        prompt=(64, 256),
        completion=(64, 1024),
        microbatch_tokens=16_384,
    ),
}
"""`small` and `medium` (1.5 and 26 million weights) for a CPU, half a second and half a minute a step; `0.5b` for a GPU, as Qwen2.5-0.5B is shaped."""

SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "recomputed": {"activation_checkpointing": True},
    "bfloat16, recomputed": {"dtype": "bfloat16", "activation_checkpointing": True},
    "adafactor": {"optimizer": "adafactor"},
    "muon": {"optimizer": "muon"},
    "sgd": {"optimizer": "sgd"},
    "lora": {"lora": {"rank": 16}},
    "reference (kl)": {"kl": 0.01},
}
"""What differs from the learner's defaults, by the name of a row of the table."""


def make_model(shape: Shape, directory: Path) -> None:
    """Write a model with random weights, and a tokenizer that is only carried along."""
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3ForCausalLM(Qwen3Config(**shape.model, max_position_embeddings=4096))
    model.save_pretrained(directory)
    character_tokenizer().save_pretrained(directory)


def make_rows(shape: Shape, seed: int) -> list[Row]:
    """Return rows with uniform lengths; log-probabilities about those of random weights, so that few ratios are clipped."""
    drawn = random.Random(seed)  # noqa: S311 - reproducible, not secret
    vocabulary = shape.model["vocab_size"]
    likely = float(torch.tensor(1.0 / vocabulary).log())

    def ids(bounds: tuple[int, int]) -> tuple[int, ...]:
        return tuple(drawn.randrange(RESERVED, vocabulary) for _ in range(drawn.randint(*bounds)))

    def row() -> Row:
        tokens = ids(shape.completion)
        return Row(ids(shape.prompt), tokens, (likely,) * len(tokens), drawn.choice([-1.0, 1.0]))

    return [row() for _ in range(shape.rows)]
