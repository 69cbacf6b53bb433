"""The text of completions that new weights have cut in two: by the tokenizer that lies beside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.rollouts.pool import ServerPool

TOKENIZER = "tokenizer_config.json"
"""What tells that a folder holds a tokenizer."""


def teach_to_decode(pool: ServerPool, directory: Path) -> None:
    """Give a pool that continues completions the tokenizer of an export, once; one without a tokenizer changes nothing."""
    if not pool.continues or pool.decode is not None or not (directory / TOKENIZER).is_file():
        return
    from transformers import AutoTokenizer  # noqa: PLC0415 - only runs whose weights change under way need it

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))

    pool.decode = decode
