"""Features by text hash: computed once per text, kept in the database, the most recent ones also in memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import structlog

from rollout_budget.errors import RolloutBudgetError
from services.prior_api.batching import Batcher
from services.prior_api.encoders import Encoder
from services.prior_api.heads.base import Float32Array
from services.prior_api.metrics import Metrics
from services.prior_api.records import Text
from services.prior_api.repository import Repository

MEMORY_ENTRIES = 32_768
"""Vectors kept in memory: 50 MB at 384 numbers each."""
CHUNK = 64
"""Texts encoded between two writes to the database: a crash loses at most these."""
STORED = np.dtype("<f4")

_log = structlog.get_logger(__name__)


class FeatureCache(Protocol):
    """Where the service gets features from."""

    async def get(self, hashes: Iterable[str], *, wait_s: float) -> dict[str, Float32Array]:
        """Return the features that can be had within `wait_s`, by hash; what is missing goes on being computed.

        The texts are in the database already.
        """
        ...


class SqlFeatureCache:
    """Memory in front of the database in front of the batched encoder."""

    def __init__(self, repository: Repository, encoder: Encoder, batcher: Batcher, metrics: Metrics) -> None:
        self._repository = repository
        self._encoder = encoder
        self._batcher = batcher
        self._metrics = metrics
        self._memory: OrderedDict[str, Float32Array] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._computing: dict[str, asyncio.Task[None]] = {}

    async def get(self, hashes: Iterable[str], *, wait_s: float) -> dict[str, Float32Array]:
        """See `FeatureCache`."""
        wanted = set(hashes)
        found = await self._look_up(wanted)
        missing = wanted - found.keys()
        self._metrics.features.labels("nowhere").inc(len(missing))
        if missing:
            self._prepare(missing)
            tasks = {self._computing[item] for item in missing if item in self._computing}
            if tasks and wait_s > 0:
                await asyncio.wait(tasks, timeout=wait_s)
            found |= {item: self._memory[item] for item in missing if item in self._memory}
        return found

    def _prepare(self, missing: set[str]) -> None:
        new = sorted(missing - self._computing.keys())
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            task = self._spawn(self._compute(chunk))
            self._computing |= dict.fromkeys(chunk, task)

    async def stop(self) -> None:
        """Give up what is being computed; its texts are kept, so it is computed when asked for again."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _look_up(self, wanted: set[str]) -> dict[str, Float32Array]:
        found: dict[str, Float32Array] = {}
        for item in wanted & self._memory.keys():
            self._memory.move_to_end(item)
            found[item] = self._memory[item]
        self._metrics.features.labels("memory").inc(len(found))
        rest = wanted - found.keys()
        if rest:
            async with self._repository.begin() as transaction:
                stored = await transaction.vectors(self._encoder.name, rest)
            self._metrics.features.labels("database").inc(len(stored))
            vectors = {item: np.frombuffer(data, dtype=STORED) for item, data in stored.items()}
            self._remember(vectors)
            found |= vectors
        return found

    def _remember(self, vectors: dict[str, Float32Array]) -> None:
        self._memory |= vectors
        while len(self._memory) > MEMORY_ENTRIES:
            self._memory.popitem(last=False)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _compute(self, hashes: Sequence[str]) -> None:
        try:
            async with self._repository.begin() as transaction:
                texts = await transaction.texts(hashes)
            order = sorted(texts, key=lambda item: len(texts[item]))
            futures = self._batcher.submit([Text(item, texts[item]) for item in order])
            results = await asyncio.gather(*futures, return_exceptions=True)
            vectors = {
                item: result for item, result in zip(order, results, strict=True) if isinstance(result, np.ndarray)
            }
            failed = next((result for result in results if isinstance(result, BaseException)), None)
            if failed is not None:
                _log.warning("encoder failed", error=type(failed).__name__, prompts=len(order) - len(vectors))
            async with self._repository.begin() as transaction:
                await transaction.keep_vectors(
                    self._encoder.name, {item: vector.astype(STORED).tobytes() for item, vector in vectors.items()}
                )
            self._remember(vectors)
        except RolloutBudgetError as error:
            _log.warning("features not computed", error=str(error), prompts=len(hashes))
        finally:
            for item in hashes:
                self._computing.pop(item, None)
