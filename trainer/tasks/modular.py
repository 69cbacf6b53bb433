"""Modular arithmetic of graded difficulty: `(37*5+8)%11=` has one answer, from 0 to the modulus less 1.

A level says how many operations the bracket has, how many digits its largest operand has, and how large the modulus may
be. Operations are `+`, `-` and `*` with the usual precedence; the remainder is never negative, as in Python.
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

OPERATIONS = "+-*"


@dataclass(frozen=True, slots=True)
class Shape:
    """A level: operations in the bracket, digits of its largest operand, smallest and largest modulus."""

    operations: int
    digits: int
    smallest: int
    largest: int


SHAPES: Mapping[int, Shape] = MappingProxyType(
    {
        1: Shape(operations=1, digits=1, smallest=5, largest=19),
        2: Shape(operations=2, digits=1, smallest=5, largest=12),
        3: Shape(operations=1, digits=2, smallest=5, largest=19),
        4: Shape(operations=2, digits=2, smallest=5, largest=19),
        5: Shape(operations=3, digits=2, smallest=5, largest=99),
    }
)
"""Small moduli make guessing pay and large ones hide what was learned; docs/tasks.md has the demo policy's accuracy."""


@dataclass(frozen=True)
class Modular(Generated):
    """The task; see `SHAPES` for its levels."""

    levels: Sequence[int] = (1, 2)
    name: str = field(default="modular", init=False)
    last_level: ClassVar[int] = max(SHAPES)

    def level_size(self, level: int) -> int:
        """Return the number of brackets with an operand of so many digits, times that of moduli."""
        shape = SHAPES[level]
        operands = shape.operations + 1
        smaller = 0 if shape.digits == 1 else 10 ** ((shape.digits - 1) * operands)
        brackets = int(10 ** (shape.digits * operands) - smaller) * len(OPERATIONS) ** shape.operations
        return int(brackets * (shape.largest - shape.smallest + 1))

    def draw(self, generator: random.Random, level: int) -> Problem:
        """Return a problem, all of the level being equally likely."""
        shape = SHAPES[level]
        smaller = 0 if shape.digits == 1 else 10 ** (shape.digits - 1)
        operands = [0]
        while max(operands) < smaller or len(operands) == 1:
            operands = [generator.randrange(10**shape.digits) for _ in range(shape.operations + 1)]
        text = str(operands[0])
        for operand in operands[1:]:
            text += f"{generator.choice(OPERATIONS)}{operand}"
        modulus = generator.randint(shape.smallest, shape.largest)
        answer = evaluate(text).value % modulus
        prompt = f"({text})%{modulus}="
        return Problem(key=f"modular/{prompt[:-1]}", prompt=prompt, answer=str(answer), level=level)
