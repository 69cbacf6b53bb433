"""A task that an untrained policy sometimes solves, each prompt as often as its column `share` says."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

PROMPTS = 24
FIRST, CHARACTERS = 4, 96
"""Ids of the test policy's characters; those before are special."""
UNREADABLE = 10
"""One in so many completions cannot be verified."""


def rows() -> Dataset:
    """Return prompts whose first character is right with chances from 0.02 to 0.98."""
    shares = [0.02 + 0.96 * place / (PROMPTS - 1) for place in range(PROMPTS)]
    return Dataset.from_list(
        [{"id": f"p{place}", "prompt": f"item {place}:", "share": share} for place, share in enumerate(shares)]
    )


def correct(completion_ids: list[list[int]], share: list[float], **_: Any) -> list[float | None]:
    """1 if the first character is among the first `share` of all, None for one character in ten."""
    return [
        None if ids[0] % UNREADABLE == 0 else float(ids[0] < FIRST + one * CHARACTERS)
        for ids, one in zip(completion_ids, share, strict=True)
    ]


async def brief(completions: list[str], **_: Any) -> list[float]:
    """A shaped part of the reward: shorter is better. Asynchronous, as TRL allows."""
    return [-0.01 * len(text) for text in completions]
