"""Reach a target from given numbers: `2,3,7:13=` is answered by `2*3+7`, or by any other way to 13.

Answers use each given number at most once, `+`, `-`, `*` and brackets; `trainer.rewards.countdown` computes them. A
problem is a set of numbers, in ascending order, with a target, so that no other order of the same numbers can be in the
held-out set. Targets are at least 1, none is given itself, and each has a solution of at most `MAX_ANSWER_CHARS`
characters without brackets; the first in a fixed order is the one that demonstrations show.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar

from trainer.tasks.generated import MAX_ANSWER_CHARS, Generated
from trainer.types import Problem

SHAPES: Mapping[int, tuple[int, int]] = MappingProxyType({1: (2, 99), 2: (3, 20), 3: (4, 9)})
"""Per level: how many numbers are given, and the largest that may be. Solutions use all of them; no two levels share a problem."""
OPERATIONS = "+-*"

_PROMPT = re.compile(r"(\d+(?:,\d+)*):(\d+)=", re.ASCII)


@dataclass(frozen=True)
class Countdown(Generated):
    """The task; see `SHAPES` for its levels."""

    levels: Sequence[int] = (1, 2, 3)
    name: str = field(default="countdown", init=False)
    last_level: ClassVar[int] = max(SHAPES)

    def level_size(self, level: int) -> int:
        """Return the number of sets of numbers with a target that they reach."""
        return len(_problems(level))

    def draw(self, generator: random.Random, level: int) -> Problem:
        """Return a problem, all of the level being equally likely."""
        return generator.choice(_problems(level))


def given(prompt: str) -> tuple[tuple[int, ...], int]:
    """Return a prompt's numbers and its target.

    Raises:
        ValueError: this is no prompt of the task.
    """
    match = _PROMPT.fullmatch(prompt)
    if match is None:
        raise ValueError(f"{prompt!r} is no countdown prompt such as '2,3,7:13='")
    return tuple(int(number) for number in match[1].split(",")), int(match[2])


@lru_cache(maxsize=len(SHAPES))
def _problems(level: int) -> tuple[Problem, ...]:
    """Return all problems of a level: under a second, once per process."""
    count, largest = SHAPES[level]
    found: list[Problem] = []
    for numbers in itertools.combinations_with_replacement(range(1, largest + 1), count):
        shown = ",".join(map(str, numbers))
        for target, solution in _solutions(numbers).items():
            found.append(Problem(f"countdown/{shown}:{target}", f"{shown}:{target}=", solution, level))
    return tuple(found)


def _solutions(numbers: tuple[int, ...]) -> dict[int, str]:
    """Return every target that all of these numbers reach without brackets, with its first solution."""
    found: dict[int, str] = {}
    for order in dict.fromkeys(itertools.permutations(numbers)):
        if sum(map(len, map(str, order))) + len(order) - 1 <= MAX_ANSWER_CHARS:
            for operations, value in _values(order):
                if value >= 1 and value not in found and value not in numbers:
                    found[value] = "".join(itertools.chain(*zip(map(str, order), (*operations, ""), strict=True)))
    return found


def _values(order: Sequence[int]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield each choice of operations between these numbers with its value, products before sums."""
    for operations in itertools.product(OPERATIONS, repeat=len(order) - 1):
        total, term = 0, order[0]
        for operation, number in zip(operations, order[1:], strict=True):
            if operation == "*":
                term *= number
            else:
                total, term = total + term, number if operation == "+" else -number
        yield operations, total + term
