"""Sums and differences of graded difficulty, generated on the spot, with one exact answer each.

Level `d` holds `a+b` and `a-b` whose larger operand has exactly `d` digits (0 counts as one digit); differences are never
negative. Prompts read `12+345=`, so a tokenizer of single characters serves.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from trainer.tasks.generated import Generated
from trainer.types import Problem

ALPHABET = "0123456789+-="
"""Every character that prompts and answers are written with."""


@dataclass(frozen=True)
class Arithmetic(Generated):
    """The task; a level is the number of digits of the larger operand. Beyond 9, answers are too long for a demo."""

    levels: Sequence[int] = (1, 2, 3, 4)
    name: str = field(default="arithmetic", init=False)
    last_level: ClassVar[int] = 9

    def level_size(self, level: int) -> int:
        """Return the number of pairs with a larger operand of `level` digits, for sums and for differences."""
        return level_size(level)

    def draw(self, generator: random.Random, level: int) -> Problem:
        """Return a sum or a difference, equally often."""
        low, high = _operands(level)
        larger, other = generator.randrange(low, high), generator.randrange(high)
        if generator.random() < 0.5:
            larger, other = max(larger, other), min(larger, other)
            text, answer = f"{larger}-{other}=", larger - other
        else:
            first, second = (larger, other) if generator.random() < 0.5 else (other, larger)
            text, answer = f"{first}+{second}=", first + second
        return Problem(key=f"arithmetic/{text[:-1]}", prompt=text, answer=str(answer), level=level)


def level_size(level: int) -> int:
    """Return how many problems a level has: pairs with a larger operand of `level` digits, sums and differences."""
    low, high = _operands(level)
    sums = high**2 - low**2
    differences = (high - low) * (low + 1 + high) // 2
    return sums + differences


def _operands(level: int) -> tuple[int, int]:
    """Return the range `[low, high)` of numbers with `level` digits; 0 counts as one."""
    return (0 if level == 1 else 10 ** (level - 1)), 10**level
