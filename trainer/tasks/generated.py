"""What generated tasks share: pools of graded problems that follow from a seed.

Owns the sizes of the sets, their shares per level, and that no held-out problem is ever trained on or shown in a warm-up.
A task of its own says how large a level is and draws one problem of it. The held-out set does not change with the size of
the training pool, so runs on small pools and on pools that never recur are measured on the same problems.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from trainer.errors import ConfigError
from trainer.types import Problem

HELD_OUT_SHARE = 0.5
"""Most of a level's problems that the held-out set may take: the smallest levels have 155, and training needs some too."""
MAX_ANSWER_CHARS = 7
"""Longest answer of a generated problem: with its end it fits the 8 tokens that `rollouts.max_tokens` grants."""


@dataclass(frozen=True)
class Generated(ABC):
    """A task; levels share each set as evenly as their sizes allow, a small level's rest going to the larger ones.

    Attributes:
        size: problems in the training pool; a pool larger than what a run opens never recurs.
        held_out_size: problems in the held-out set.
        levels: difficulties to draw from, `first_level` to `last_level`.
        seed: of both sets.
    """

    size: int = 400
    held_out_size: int = 256
    levels: Sequence[int] = ()
    seed: int = 0
    name: str = field(default="", init=False)
    first_level: ClassVar[int] = 1
    last_level: ClassVar[int]

    def __post_init__(self) -> None:
        where, levels = f"task.{self.name}", sorted(set(self.levels))
        if not levels or levels[0] < self.first_level or levels[-1] > self.last_level:
            raise ConfigError(
                f"{where}.levels: {list(self.levels)} must name levels between {self.first_level} and {self.last_level}"
            )
        if self.size < 1 or self.held_out_size < 0:
            raise ConfigError(f"{where}.size must be at least 1 and {where}.held_out_size at least 0")
        object.__setattr__(self, "levels", tuple(levels))
        self._sets  # noqa: B018 - a pool that does not fit its levels is refused here, not in the middle of a run

    @abstractmethod
    def level_size(self, level: int) -> int:
        """Return how many different problems this level has."""

    @abstractmethod
    def draw(self, generator: random.Random, level: int) -> Problem:
        """Return a problem of this level; every one that `level_size` counts can occur."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many problems were left out for which reason: none, since all are made to fit."""
        return {}

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
            problem = self.draw(generator, generator.choice(self.levels))
            if problem.key not in held_out:
                yield problem

    @cached_property
    def _sets(self) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
        sizes = {level: self.level_size(level) for level in self.levels}
        held = self._shares(self.held_out_size, {level: int(size * HELD_OUT_SHARE) for level, size in sizes.items()})
        held_out = self._distinct("held-out", held, frozenset())
        pool = self._shares(self.size, {level: sizes[level] - held[level] for level in self.levels})
        return held_out, self._distinct("train", pool, frozenset(problem.key for problem in held_out))

    def _distinct(self, purpose: str, counts: dict[int, int], taken: frozenset[str]) -> tuple[Problem, ...]:
        """Return `counts[level]` distinct problems of each level that are not `taken`, shuffled."""
        generator = random.Random(f"{purpose}/{self.seed}")  # noqa: S311 - reproducible, not secret
        found: dict[str, Problem] = {}
        for level, count in counts.items():
            wanted = len(found) + count
            while len(found) < wanted:
                problem = self.draw(generator, level)
                if problem.key not in taken:
                    found.setdefault(problem.key, problem)
        problems = list(found.values())
        generator.shuffle(problems)
        return tuple(problems)

    def _shares(self, total: int, room: dict[int, int]) -> dict[int, int]:
        """Split `total` over levels as evenly as their room allows.

        Raises:
            ConfigError: there is not room enough.
        """
        if total > sum(room.values()):
            raise ConfigError(
                f"task.{self.name}: {total} problems do not fit levels {list(room)}, which have {sum(room.values())}"
                " left; ask for fewer, or for higher levels"
            )
        shares: dict[int, int] = {}
        for done, level in enumerate(sorted(room, key=lambda level: room[level])):
            shares[level] = min(room[level], (total - sum(shares.values())) // (len(room) - done))
        return dict(sorted(shares.items()))
