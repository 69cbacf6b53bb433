"""Modular arithmetic of graded difficulty: `(37*5+8)%61=` has one answer, from 0 to the modulus less 1.

A level says how many operations the bracket has and of which signs, and how large the modulus may be; operands are smaller
than the modulus. Precedence is the usual one, and the remainder is never negative, as in Python. Levels with `+` and `-`
alone have a rule that is soon learned (add, then correct once); products have none so simple.
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


@dataclass(frozen=True, slots=True)
class Shape:
    """A level: signs of its operations, how many there are, smallest and largest modulus."""

    signs: str
    operations: int
    smallest: int
    largest: int


SHAPES: Mapping[int, Shape] = MappingProxyType(
    {
        1: Shape("+-", operations=1, smallest=10, largest=40),
        2: Shape("+-", operations=1, smallest=41, largest=99),
        3: Shape("+-", operations=2, smallest=10, largest=99),
        4: Shape("+-*", operations=2, smallest=10, largest=99),
        5: Shape("+-*", operations=3, smallest=10, largest=99),
    }
)
"""Moduli start at 10, so that guessing hardly pays; docs/tasks.md has the demo policy's accuracy on each level."""


@dataclass(frozen=True)
class Modular(Generated):
    """The task; see `SHAPES` for its levels."""

    levels: Sequence[int] = (1, 2)
    name: str = field(default="modular", init=False)
    last_level: ClassVar[int] = max(SHAPES)

    def level_size(self, level: int) -> int:
        """Return the number of brackets of each modulus, added up."""
        shape = SHAPES[level]
        operands = sum(modulus ** (shape.operations + 1) for modulus in range(shape.smallest, shape.largest + 1))
        return int(operands * len(shape.signs) ** shape.operations)

    def draw(self, generator: random.Random, level: int) -> Problem:
        """Return a problem, all moduli of the level being equally likely."""
        shape = SHAPES[level]
        modulus = generator.randint(shape.smallest, shape.largest)
        text = str(generator.randrange(modulus))
        for _ in range(shape.operations):
            text += f"{generator.choice(shape.signs)}{generator.randrange(modulus)}"
        prompt = f"({text})%{modulus}="
        answer = evaluate(text).value % modulus
        return Problem(key=f"modular/{prompt[:-1]}", prompt=prompt, answer=str(answer), level=level)
