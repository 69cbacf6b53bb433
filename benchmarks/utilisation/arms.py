"""Three ways to draw the same number of rollouts.

Groups sized by the allocator's services; the same waves again without any allocator, which shows what decisions cost; and
groups of 16 at once, as a run without budgets does.

The policy is random and its answers are worth nothing, so outcomes are coins: a completion's text decides, heads with a
probability of its prompt's own. The allocator cannot tell, and its groups end after different numbers of waves.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rollout_budget.client.base import Allocator
from trainer.groups import group_id, wave_seed
from trainer.journal import Journal
from trainer.rollouts.pool import ServerPool
from trainer.types import Problem, Sample, Sampling
from trainer.waves import Collector

GROUP = 16
"""Fixed group size of the arm without an allocator."""
RUN = "utilisation"
"""Name of the run that the allocator is told of."""


class Coins:
    """Obeys `trainer.types.Verifier`."""

    async def grade(self, problem: Problem, texts: Sequence[str]) -> list[float]:
        """Return 0 or 1 for each text."""
        return [float(_uniform(f"{problem.key}/{text}") < _uniform(problem.key)) for text in texts]

    async def close(self) -> None:
        """Nothing to end."""


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one arm drew: completions returned, completions begun in vain, waves; and the waves of each group in order."""

    rollouts: int
    cancelled: int = 0
    waves: int = 0
    sizes: tuple[tuple[int, ...], ...] = ()

    def __add__(self, other: Drawn) -> Drawn:
        """Return the sums."""
        return Drawn(self.rollouts + other.rollouts, self.cancelled + other.cancelled, self.waves + other.waves)


async def in_turn(count: int, ahead: int, draw: Callable[[int], Awaitable[Drawn]]) -> list[Drawn]:
    """Draw steps 0 to `count` - 1; each begins once all but `ahead` of those before it are done."""
    places = asyncio.Semaphore(ahead + 1)

    async def one(step: int) -> Drawn:
        async with places:
            return await draw(step)

    return await asyncio.gather(*(one(step) for step in range(count)))


@dataclass(frozen=True, slots=True)
class Arms:
    """All arms, on the same servers.

    Attributes:
        over_issue: share of prompts opened beyond those that a step needs; see `rollouts.over_issue`.
    """

    pool: ServerPool
    allocator: Allocator
    encode: Callable[[str], Sequence[int]]
    sampling: Sampling
    over_issue: float = 0.0

    async def budgeted(self, problems: Sequence[Problem], step: int) -> Drawn:
        """Draw a step's groups as the trainer does, on the services."""
        collector = Collector(
            run_id=RUN,
            allocator=self.allocator,
            generator=self.pool,
            verifier=Coins(),
            encode=self.encode,
            sampling=self.sampling,
        )
        enough = round(len(problems) / (1.0 + self.over_issue)) if self.over_issue else None
        with tempfile.TemporaryDirectory() as folder:
            journal = Journal(Path(folder)).step(step)
            _, stats = await collector.collect(problems, step=step, version=0, enough=enough, journal=journal)
            drawn = Journal(Path(folder)).step(step).waves
        waves = [drawn[group_id(step, problem.key)] for problem in problems]
        sizes = tuple(tuple(len(wave.samples) for wave in group) for group in waves)
        return Drawn(stats.used, stats.cancelled, stats.waves, sizes)

    async def same(self, problems: Sequence[Problem], sizes: Sequence[Sequence[int]], step: int) -> Drawn:
        """Draw the same waves for the same prompts, each group on its own, and ask nobody."""

        async def group(problem: Problem, waves: Sequence[int]) -> int:
            for place, count in enumerate(waves):
                samples = await self._generate(problem, count, wave_seed(0, f"{step}-{problem.key}", 1, place))
                await Coins().grade(problem, [sample.text for sample in samples])
            return sum(waves)

        drawn = await asyncio.gather(*map(group, problems, sizes))
        return Drawn(sum(drawn), waves=sum(map(len, sizes)))

    async def fixed(self, problems: Sequence[Problem], rollouts: int, step: int) -> Drawn:
        """Draw so many rollouts in groups of 16 for the first of the same prompts, all at once; the last may be smaller."""
        sizes = [min(GROUP, rollouts - first) for first in range(0, rollouts, GROUP)]
        if len(sizes) > len(problems):
            raise ValueError(f"{rollouts} rollouts need {len(sizes)} prompts, and there are {len(problems)}")

        async def group(place: int, count: int) -> int:
            samples = await self._generate(problems[place], count, step * 2**20 + place * 2**10)
            await Coins().grade(problems[place], [sample.text for sample in samples])
            return len(samples)

        drawn = await asyncio.gather(*(group(place, count) for place, count in enumerate(sizes)))
        return Drawn(sum(drawn), waves=len(sizes))

    async def _generate(self, problem: Problem, count: int, seed: int) -> list[Sample]:
        return await self.pool.generate(
            self.encode(problem.prompt), count=count, sampling=self.sampling, version=0, seed=seed
        )
