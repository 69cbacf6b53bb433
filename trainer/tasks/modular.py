"""Modular arithmetic of graded difficulty: `(7*5+8)%12=` has one answer, from 0 to the modulus less 1.

A level says how many operations the bracket has, how large its operands are and how large the modulus may be. Precedence is
the usual one, and the remainder is never negative, as in Python. There is no rule that a small model finds soon: of the
generated tasks this is the one where most is left to learn after the warm-up.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

from trainer.tasks.expressions import evaluate
from trainer.tasks.generated import Generated
from trainer.types import Problem

SIGNS = "+-*"


@dataclass(frozen=True, slots=True)
class Shape:
    """A level: operations in the bracket, how many different operands (0 is the least), smallest and largest modulus."""

    operations: int
    operands: int
    smallest: int
    largest: int


SHAPES: Mapping[int, Shape] = MappingProxyType(
    {
        1: Shape(operations=1, operands=10, smallest=5, largest=12),
        2: Shape(operations=1, operands=10, smallest=13, largest=30),
        3: Shape(operations=2, operands=10, smallest=5, largest=12),
        4: Shape(operations=2, operands=10, smallest=13, largest=30),
        5: Shape(operations=2, operands=100, smallest=31, largest=99),
    }
)
"""No two levels share a problem. Moduli start at 5, so that guessing pays little."""


@dataclass(frozen=True)
class Modular(Generated):
    """The task; see `SHAPES` for its levels."""

    levels: Sequence[int] = (1, 2, 3)
    name: str = field(default="modular", init=False)
    last_level: ClassVar[int] = max(SHAPES)

    def level_size(self, level: int) -> int:
        """Return the number of brackets, times that of moduli."""
        shape = SHAPES[level]
        brackets = shape.operands ** (shape.operations + 1) * len(SIGNS) ** shape.operations
        return int(brackets * (shape.largest - shape.smallest + 1))

    def draw(self, generator: random.Random, level: int) -> Problem:
        """Return a problem, all of the level being equally likely."""
        shape = SHAPES[level]
        modulus = generator.randint(shape.smallest, shape.largest)
        text = str(generator.randrange(shape.operands))
        for _ in range(shape.operations):
            text += f"{generator.choice(SIGNS)}{generator.randrange(shape.operands)}"
        prompt = f"({text})%{modulus}="
        answer = evaluate(text).value % modulus
        return Problem(key=f"modular/{prompt[:-1]}", prompt=prompt, answer=str(answer), level=level)
