"""Held-out accuracy: the same problems every time, off the training budget and counted apart.

Two figures, each by choice: the mean over n sampled completions per problem (mean@n, an estimate of the policy's pass rate)
and the share of problems that the likeliest completion solves (greedy). Problems are the unit of both: n completions of
one problem are not n problems, so the standard error is that of the mean over problems.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from trainer.errors import GenerationFailed
from trainer.groups import wave_seed
from trainer.types import Generator, Problem, Sampling, Verifier


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one measurement found.

    Attributes:
        accuracy: mean@n, the mean over problems of their mean outcome; None without samples, or where nothing came.
        rollouts: completions drawn, greedy ones included.
        failed: problems left out, because no server could answer all that was asked of them.
        greedy: mean outcome of one greedy completion per problem; None where it was not measured.
        standard_error: of `accuracy` (of `greedy` where there is no other), over problems; None for fewer than two.
        levels: the same figure by the problems' difficulty.
    """

    accuracy: float | None
    rollouts: int
    failed: int
    greedy: float | None = None
    standard_error: float | None = None
    levels: Mapping[int, float] = field(default_factory=dict)

    @property
    def main(self) -> float | None:
        """The run's held-out accuracy: mean@n, or the greedy figure where nothing was sampled."""
        return self.accuracy if self.accuracy is not None else self.greedy


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """One problem's outcomes: sampled and greedy."""

    level: int
    sampled: Sequence[float]
    greedy: Sequence[float]

    @property
    def mean(self) -> float:
        """What the problem adds to the main figure."""
        return _mean(self.sampled or self.greedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """Everything that stays the same from measurement to measurement.

    Attributes:
        problems: held-out ones, measured in this order.
        generator, verifier: as in training.
        encode: makes token ids of a prompt.
        sampling: of the sampled completions; at temperature 0 all n would be equal, so one is drawn.
        samples: n of mean@n; 0 draws none.
        greedy: whether to draw a greedy completion per problem too.
        seed: of sampling; the same for a version gives the same completions where the generator honours seeds.
    """

    problems: Sequence[Problem]
    generator: Generator
    verifier: Verifier
    encode: Callable[[str], Sequence[int]]
    sampling: Sampling
    samples: int
    seed: int
    greedy: bool = False

    async def measure(self, version: int) -> Measurement:
        """Measure the policy as the generator holds it; problems that no server could answer are left out."""
        answered = await asyncio.gather(*(self._outcomes(problem, version) for problem in self.problems))
        outcomes = [item for item in answered if item is not None]
        sampled = [_mean(item.sampled) for item in outcomes if item.sampled]
        greedy = [_mean(item.greedy) for item in outcomes if item.greedy]
        return Measurement(
            accuracy=_mean(sampled) if sampled else None,
            rollouts=sum(len(item.sampled) + len(item.greedy) for item in outcomes) - len(greedy) * self._shared,
            failed=len(answered) - len(outcomes),
            greedy=_mean(greedy) if greedy else None,
            standard_error=_standard_error([item.mean for item in outcomes]),
            levels=_by_level(outcomes),
        )

    @property
    def _shared(self) -> bool:
        """Whether the sampled completion is the greedy one."""
        return self.greedy and self.samples > 0 and self.sampling.temperature == 0.0

    async def _outcomes(self, problem: Problem, version: int) -> _Outcomes | None:
        """Return a problem's outcomes; None where some could not be drawn, so that both figures are of the same ones."""
        count = min(self.samples, 1) if self.sampling.temperature == 0.0 else self.samples
        likeliest = replace(self.sampling, temperature=0.0)
        try:
            sampled = await self._graded(problem, version, count, self.sampling)
            greedy = await self._graded(problem, version, int(self.greedy and not self._shared), likeliest)
        except GenerationFailed:
            return None
        return _Outcomes(problem.level, sampled, sampled if self._shared else greedy)

    async def _graded(self, problem: Problem, version: int, count: int, sampling: Sampling) -> list[float]:
        if not count:
            return []
        samples = await self.generator.generate(
            tuple(self.encode(problem.prompt)),
            count=count,
            sampling=sampling,
            version=version,
            seed=wave_seed(self.seed, f"evaluation/{problem.key}", version, 0),
        )
        return await self.verifier.grade(problem, [sample.text for sample in samples])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of independent values, by their sample standard deviation."""
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def _by_level(outcomes: Sequence[_Outcomes]) -> dict[int, float]:
    levels = sorted({item.level for item in outcomes})
    return {level: _mean([item.mean for item in outcomes if item.level == level]) for level in levels}
