"""A made-up training run for speed measurements: prompts, versions, outcomes, and an encoder that takes no time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from rollout_budget.wire import EvidenceRequest, EvidenceRow, ModelPart, Prompt, ValuesRequest
from services.prior_api.heads.base import Float32Array

STEP = 512
"""Prompts in one step."""
TRIALS = 8
POLICY = "policy"
WORDS = ("triangle", "integer", "sum", "prime", "probability", "circle", "function", "root", "area", "sequence")


class Instant:
    """Hashes texts to unit vectors that have a direction in common, as those of one domain have."""

    name, width, unit, surface = "instant/1", 384, True, 0
    part = ModelPart(name="instant", licence="apache-2.0", source="benchmarks", commercial_use=True)

    def __init__(self) -> None:
        self._common = np.random.default_rng(0).normal(size=self.width)

    def load(self) -> None:
        """Nothing to load."""

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Return shape (len(texts), width)."""
        own = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=self.width) for text in texts]
        vectors = (np.stack(own) + self._common).astype(np.float32)
        unit: Float32Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def text(place: int) -> str:
    """Return a prompt of 10 to 120 words, always the same at one place."""
    source = np.random.default_rng(place)
    return f"Problem {place}: " + " ".join(source.choice(WORDS, size=int(source.integers(10, 120))))


def prompts(places: Sequence[int], *, texts: bool) -> list[Prompt]:
    """Return prompts by place, with their texts or by key alone."""
    return [Prompt(key=f"p{place}", text=text(place) if texts else None) for place in places]


def steps(start: int, rows: int, pool: int, seed: int) -> Iterator[EvidenceRequest]:
    """Yield steps `start` and on until they hold `rows` rows; one epoch after the other over `pool` prompts."""
    per_epoch = pool // STEP
    for step in range(start, start + -(-rows // STEP)):
        epoch = np.random.default_rng([seed, step // per_epoch]).permutation(pool)
        places = epoch[step % per_epoch * STEP :][:STEP]
        rates = (places * 0.618) % 1
        solved = np.random.default_rng([seed, step]).binomial(TRIALS, rates)
        yield EvidenceRequest.model_construct(
            rows=[
                EvidenceRow.model_construct(
                    id=f"{step}-{place}", key=f"p{place}", version=step, successes=float(count), trials=TRIALS
                )
                for place, count in zip(places.tolist(), solved.tolist(), strict=True)
            ],
            prompts=prompts(places.tolist(), texts=step < per_epoch),
            scope=None,
        )


def question(version: int, pool: int, seed: int, *, texts: bool = False) -> ValuesRequest:
    """Return one step's question about known prompts."""
    places = np.random.default_rng([seed, version, 1]).choice(pool, STEP, replace=False)
    return ValuesRequest(policy=POLICY, version=version, prompts=prompts(places.tolist(), texts=texts))
