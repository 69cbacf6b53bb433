"""The trainer's own words: problems, samples, groups, and the narrow protocols between its rooms.

Importable without torch. Token ids and log-probabilities travel as plain tuples until the learner makes tensors of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One prompt with its verifiable answer. `key` is stable across steps, epochs and runs; `level` is a difficulty."""

    key: str
    prompt: str
    answer: str
    level: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of a rollout, always sent explicitly (a model's generation_config must not decide)."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion.

    Attributes:
        token_ids: sampled tokens, the end-of-sequence token included where it was sampled.
        logprobs: natural log-probability of each token in the distribution it was drawn from, temperature and top-p
            included; at temperature 0, which has none, that of temperature 1.
        version: weight version that sampled the first token.
        versions: weight version of each token; empty where all are of `version`.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    version: int
    versions: tuple[int, ...] = ()

    @property
    def token_versions(self) -> tuple[int, ...]:
        """Weight version of each token."""
        return self.versions or (self.version,) * len(self.token_ids)


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """A finished group as the learner takes it: ragged, aligned lists of samples, outcomes and advantages.

    `version` is that of the weights when the group was opened, under which its evidence is kept. `importance_weight`
    multiplies its loss: 1 unless a plan chose its prompt and the run asks for weights.
    """

    group_id: str
    problem: Problem
    prompt_ids: tuple[int, ...]
    samples: tuple[Sample, ...]
    outcomes: tuple[float, ...]
    advantages: tuple[float, ...]
    baseline: float
    prior: float
    first_wave: int
    version: int
    importance_weight: float = 1.0


class Generator(Protocol):
    """A source of rollouts: a pool of vLLM servers, or transformers in this process."""

    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        """Return `count` samples of one prompt under weights of `version` or later, each token's version known.

        Later ones occur only where weights are published while rollouts are drawn (`rollouts.max_staleness` above 0). A
        caller that cancels the call no longer needs its samples: whoever generates them stops, and counts none.

        Raises:
            trainer.errors.GenerationFailed: after bounded retries; none of the samples counts.
        """
        ...

    async def close(self) -> None:
        """Release connections; cancels what is in flight."""
        ...


class WeightPublisher(Protocol):
    """Brings exported weights to whoever generates."""

    async def publish(self, directory: Path, version: int) -> None:
        """Load the checkpoint in `directory` (Hugging Face layout, safetensors) everywhere and name it `version`.

        Raises:
            trainer.errors.WeightUpdateFailed: a server could not be brought to `version`; it does not serve meanwhile.
        """
        ...

    async def close(self) -> None:
        """Release what it holds between updates, if anything."""
        ...


class Verifier(Protocol):
    """Turns completions into outcomes."""

    async def grade(self, problem: Problem, texts: Sequence[str]) -> list[float]:
        """Return one outcome in [0, 1] per completion text; never raises for a bad answer, which is worth 0."""
        ...

    async def close(self) -> None:
        """End what it runs answers in, if anything."""
        ...


class Task(Protocol):
    """Problems to train on and held-out ones to measure on."""

    @property
    def name(self) -> str:
        """The name that the task goes by in a configuration."""
        ...

    def train(self) -> Sequence[Problem]:
        """Return the training pool, in a stable order."""
        ...

    def held_out(self) -> Sequence[Problem]:
        """Return problems that never occur in training."""
        ...
