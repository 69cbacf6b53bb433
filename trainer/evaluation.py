"""Held-out accuracy: the same problems every time, off the training budget and counted apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.errors import GenerationFailed
from trainer.groups import wave_seed
from trainer.types import Generator, Problem, Sampling, Verifier


@dataclass(frozen=True, slots=True)
class Measurement:
    """Mean outcome over problems; None where none could be generated for. `failed` counts those."""

    accuracy: float | None
    rollouts: int
    failed: int
    greedy: float | None = None
    standard_error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """Everything that stays the same from measurement to measurement."""

    problems: Sequence[Problem]
    generator: Generator
    verifier: Verifier
    encode: Callable[[str], Sequence[int]]
    sampling: Sampling
    samples: int
    seed: int

    async def measure(self, version: int) -> Measurement:
        """Measure the policy as the generator holds it; problems that no server could answer are left out."""
        outcomes = await asyncio.gather(*(self._outcomes(problem, version) for problem in self.problems))
        drawn = [outcome for group in outcomes for outcome in group]
        return Measurement(
            accuracy=sum(drawn) / len(drawn) if drawn else None,
            rollouts=len(drawn),
            failed=sum(not group for group in outcomes),
        )

    async def _outcomes(self, problem: Problem, version: int) -> list[float]:
        try:
            samples = await self.generator.generate(
                tuple(self.encode(problem.prompt)),
                count=self.samples,
                sampling=self.sampling,
                version=version,
                seed=wave_seed(self.seed, f"evaluation/{problem.key}", version, 0),
            )
        except GenerationFailed:
            return []
        return await self.verifier.grade(problem, [sample.text for sample in samples])
