"""Sums and differences of graded difficulty, generated on the spot, with one exact answer each.

Level `d` holds `a+b` and `a-b` whose larger operand has exactly `d` digits (0 counts as one digit); differences are never
negative. Prompts read `12+345=`, so a tokenizer of single characters serves. Everything follows from the seed: the
held-out set does not change with the size of the training pool, and no held-out problem is ever trained on or shown.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from trainer.errors import ConfigError
from trainer.types import Problem

MAX_LEVEL = 9
"""Most digits: beyond, the answer no longer fits the few tokens that the demo policy is given."""
HELD_OUT_SHARE = 0.5
"""Most of a level's problems that the held-out set may take: level 1 has only 155, and training needs some too."""
ALPHABET = "0123456789+-="
"""Every character that prompts and answers are written with."""


@dataclass(frozen=True)
class Arithmetic:
    """The task; levels share each set as evenly as their sizes allow, a small level's rest going to the larger ones.

    Attributes:
        size: problems in the training pool.
        held_out_size: problems in the held-out set.
        levels: difficulties to draw from, in digits, 1 to 9.
        seed: of both sets.
    """

    size: int = 400
    held_out_size: int = 256
    levels: Sequence[int] = (1, 2, 3, 4)
    seed: int = 0
    name: str = field(default="arithmetic", init=False)

    def __post_init__(self) -> None:
        levels = sorted(set(self.levels))
        if not levels or levels[0] < 1 or levels[-1] > MAX_LEVEL:
            raise ConfigError(f"task.arithmetic.levels: {list(self.levels)} must name digits between 1 and {MAX_LEVEL}")
        if self.size < 1 or self.held_out_size < 0:
            raise ConfigError("task.arithmetic.size must be at least 1 and task.arithmetic.held_out_size at least 0")
        object.__setattr__(self, "levels", tuple(levels))
        self._sets  # noqa: B018 - a pool that does not fit its levels is refused here, not in the middle of a run

    def train(self) -> Sequence[Problem]:
        """Return the training pool, in a stable order."""
        return self._sets[1]

    def held_out(self) -> Sequence[Problem]:
        """Return the held-out problems; none of them is in the pool or among the demonstrations."""
        return self._sets[0]

    def demonstrations(self, seed: int = 0) -> Iterator[Problem]:
        """Yield problems without end, levels in equal shares, for a supervised warm-up; never a held-out one."""
        held_out = {problem.key for problem in self.held_out()}
        generator = random.Random(f"demonstrations/{self.seed}/{seed}")  # noqa: S311 - reproducible, not secret
        while True:
            problem = _draw(generator, generator.choice(self.levels))
            if problem.key not in held_out:
                yield problem

    @cached_property
    def _sets(self) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
        sizes = {level: level_size(level) for level in self.levels}
        held = _shares(self.held_out_size, {level: int(size * HELD_OUT_SHARE) for level, size in sizes.items()})
        held_out = self._distinct("held-out", held, frozenset())
        pool = _shares(self.size, {level: sizes[level] - held[level] for level in self.levels})
        return held_out, self._distinct("train", pool, frozenset(problem.key for problem in held_out))

    def _distinct(self, purpose: str, counts: dict[int, int], taken: frozenset[str]) -> tuple[Problem, ...]:
        """Return `counts[level]` distinct problems of each level that are not `taken`, shuffled."""
        generator = random.Random(f"{purpose}/{self.seed}")  # noqa: S311 - reproducible, not secret
        found: dict[str, Problem] = {}
        for level, count in counts.items():
            wanted = len(found) + count
            while len(found) < wanted:
                problem = _draw(generator, level)
                if problem.key not in taken:
                    found.setdefault(problem.key, problem)
        problems = list(found.values())
        generator.shuffle(problems)
        return tuple(problems)


def level_size(level: int) -> int:
    """Return how many problems a level has: pairs with a larger operand of `level` digits, sums and differences."""
    low, high = _operands(level)
    sums = high**2 - low**2
    differences = (high - low) * (low + 1 + high) // 2
    return sums + differences


def _operands(level: int) -> tuple[int, int]:
    """Return the range `[low, high)` of numbers with `level` digits; 0 counts as one."""
    return (0 if level == 1 else 10 ** (level - 1)), 10**level


def _draw(generator: random.Random, level: int) -> Problem:
    low, high = _operands(level)
    larger, other = generator.randrange(low, high), generator.randrange(high)
    if generator.random() < 0.5:
        larger, other = max(larger, other), min(larger, other)
        text, answer = f"{larger}-{other}=", larger - other
    else:
        first, second = (larger, other) if generator.random() < 0.5 else (other, larger)
        text, answer = f"{first}+{second}=", first + second
    return Problem(key=f"arithmetic/{text[:-1]}", prompt=text, answer=str(answer), level=level)


def _shares(total: int, room: dict[int, int]) -> dict[int, int]:
    """Split `total` over levels as evenly as their room allows.

    Raises:
        ConfigError: there is not room enough.
    """
    if total > sum(room.values()):
        raise ConfigError(
            f"task: {total} problems do not fit levels {list(room)}, which have {sum(room.values())} left"
        )
    shares: dict[int, int] = {}
    for done, level in enumerate(sorted(room, key=lambda level: room[level])):
        shares[level] = min(room[level], (total - sum(shares.values())) // (len(room) - done))
    return dict(sorted(shares.items()))
