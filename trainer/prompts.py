"""Which prompts a step draws, and how many: shuffled epochs over the pool, sized by a budget of rollouts.

Pure and deterministic: both follow from the seed and from what was drawn, and both can be stored and restored.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.types import Problem

EXPECTED_AUTO = 4
"""Group size to expect of `k_init = "auto"` before any was seen: what the rules grant while they know nothing of a prior."""
MEMORY_STEPS = 5
"""Steps that the recent mean group size looks back on: enough to average over prompts, few enough to follow the prior."""


class PromptSampler:
    """Deals the pool in shuffled epochs; a step never holds a prompt twice, also where two epochs meet."""

    def __init__(self, pool: Sequence[Problem], *, seed: int) -> None:
        self._pool = pool
        self._place = {problem.key: index for index, problem in enumerate(pool)}
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._owed: list[int] = []
        self._order = self._shuffled()

    def __len__(self) -> int:
        """Return how many problems the pool holds."""
        return len(self._pool)

    def take(self, count: int, without: Collection[str] = ()) -> list[Problem]:
        """Return the next `count` problems, at most the whole pool, none of whose keys is in `without`.

        Where the next epoch brings a problem that this step has already, it comes first in the next step instead.
        """
        present = {self._place[key] for key in without}
        chosen: dict[int, None] = {}
        waiting, owed = self._owed, []
        while len(chosen) < min(count, len(self._pool) - len(present)):
            index = waiting.pop(0) if waiting else self._next()
            if index in chosen or index in present:
                owed.append(index)
            else:
                chosen[index] = None
        self._owed = owed + waiting
        return [self._pool[index] for index in chosen]

    def give_back(self, problems: Sequence[Problem]) -> None:
        """Deal problems that were taken in vain once more, first of all in the next step."""
        self._owed = [self._place[problem.key] for problem in problems] + self._owed

    def named(self, keys: Sequence[str]) -> list[Problem]:
        """Return problems by their keys.

        Raises:
            ConfigError: the pool holds one no more.
        """
        if gone := next((key for key in keys if key not in self._place), None):
            raise ConfigError(f"the run has rollouts of problem {gone!r}, which the task has no more: it was changed")
        return [self._pool[self._place[key]] for key in keys]

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as JSON."""
        return {"epoch": self._epoch, "position": self._position, "owed": list(self._owed)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where a sampler of the same pool and seed was."""
        self._epoch, self._position, self._owed = state["epoch"], state["position"], list(state["owed"])
        self._order = self._shuffled()

    def _next(self) -> int:
        if self._position == len(self._order):
            self._epoch, self._position = self._epoch + 1, 0
            self._order = self._shuffled()
        self._position += 1
        return self._order[self._position - 1]

    def _shuffled(self) -> list[int]:
        order = list(range(len(self._pool)))
        random.Random(f"prompts/{self._seed}/{self._epoch}").shuffle(order)  # noqa: S311 - reproducible, not secret
        return order


@dataclass(slots=True)
class StepSize:
    """How many prompts a step opens: its budget of rollouts over the recent mean group size.

    The mean is over steps, the plain one of the first `MEMORY_STEPS` and from then on exponentially forgotten: the first
    step replaces the guess that it was sized by, since small steps learn from noise. So when a good prior lets groups
    shrink, the same number of rollouts a step buys more prompts. The budget of a step is an aim; the run's limit, which
    the ledger holds, is hard.

    Attributes:
        rollouts: budget of a step.
        prompts: a fixed number of prompts instead, or None.
        mean_group: recent mean group size.
        steps: steps that were seen, at most `MEMORY_STEPS`.
    """

    rollouts: int
    prompts: int | None
    mean_group: float
    steps: int = 0

    @classmethod
    def of(cls, config: Config) -> StepSize:
        """Start half way, on a logarithmic scale, between the first wave of the run's rules and their largest group."""
        settings = config.allocator
        first = EXPECTED_AUTO if settings.k_init == "auto" else settings.k_init
        first = settings.k_max if settings.stopping == "fixed" else min(first, settings.k_max)
        return cls(
            rollouts=config.rollouts.per_step,
            prompts=config.rollouts.prompts_per_step,
            mean_group=math.sqrt(first * settings.k_max),
        )

    def next(self, remaining: int | None) -> int:
        """Return how many prompts to open, at least one, so that about `remaining` rollouts are not exceeded."""
        wanted = self.rollouts if self.prompts is None else self.prompts * self.mean_group
        affordable = wanted if remaining is None else min(wanted, remaining)
        return max(1, round(affordable / self.mean_group))

    def saw(self, groups: int, rollouts: int) -> None:
        """Take a finished step into account."""
        if groups:
            self.steps = min(self.steps + 1, MEMORY_STEPS)
            self.mean_group += (rollouts / groups - self.mean_group) / self.steps

    def state(self) -> dict[str, float]:
        """Return what `restore` needs, as JSON."""
        return {"mean_group": self.mean_group, "steps": self.steps}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on where another of the same run was."""
        self.mean_group, self.steps = state["mean_group"], int(state["steps"])
