"""An encoder whose features are known, which counts what it is asked and fails or waits on demand."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence

import numpy as np

from rollout_budget.wire import ModelPart
from services.prior_api.heads.base import Float32Array

WIDTH = 16


def embed(text: str) -> Float32Array:
    """Return a unit vector that texts with common words have in part in common."""
    vector = np.zeros(WIDTH, dtype=np.float32)
    for word in text.split() or [""]:
        vector += np.random.default_rng(zlib.crc32(word.encode())).normal(size=WIDTH).astype(np.float32)
    unit: Float32Array = vector / np.linalg.norm(vector)
    return unit


class FakeEncoder:
    """Encodes words by hash."""

    name = "fake/1"
    width = WIDTH
    surface = 0
    unit = True
    part = ModelPart(name="fake", licence="mit", source="this test", commercial_use=True)

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.failure: Exception | None = None
        self.load_failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def load(self) -> None:
        """Fail if told to."""
        if self.load_failure is not None:
            raise self.load_failure

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Encode once the gate is open."""
        assert self.gate.wait(30)
        self.batches.append(list(texts))
        if self.failure is not None:
            raise self.failure
        return np.stack([embed(text) for text in texts])

    @property
    def texts(self) -> list[str]:
        """Every text that was encoded."""
        return [text for batch in self.batches for text in batch]
