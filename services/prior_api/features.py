"""Features of texts: computed once per team and text, kept in the database, the most recent ones also in memory.

Teams do not share features of equal texts: otherwise how soon, or whether, one is there would tell that another team had
sent exactly that text.
"""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import structlog

from rollout_budget.errors import RolloutBudgetError
from services.kit.session import chunks
from services.prior_api.batching import Batcher, Place
from services.prior_api.encoders import Encoder
from services.prior_api.heads.base import Float32Array
from services.prior_api.metrics import Metrics
from services.prior_api.repository import Repository

MEMORY_BYTES = 64 * 2**20
"""Of vectors kept in memory: 43,690 of 384 numbers."""
STORED = np.dtype("<f4")

_log = structlog.get_logger(__name__)


class FeatureCache(Protocol):
    """Where the service gets features from."""

    async def get(self, places: Iterable[Place], *, wait_s: float) -> dict[Place, Float32Array]:
        """Return the features that can be had within `wait_s`; what is missing goes on being computed.

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
        self._memory: OrderedDict[Place, Float32Array] = OrderedDict()
        self._room = MEMORY_BYTES // (STORED.itemsize * encoder.width)
        self._computing: dict[Place, asyncio.Future[Float32Array | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsaved: dict[Place, Float32Array] = {}
        self._saving: asyncio.Task[None] | None = None

    async def get(self, places: Iterable[Place], *, wait_s: float) -> dict[Place, Float32Array]:
        """See `FeatureCache`."""
        wanted = set(places)
        found = await self._look_up(wanted)
        found |= {place: self._memory[place] for place in wanted - found.keys() if place in self._memory}
        missing = wanted - found.keys()
        self._metrics.features.labels("nowhere").inc(len(missing))
        if missing:
            futures = self._prepare(missing)
            if wait_s > 0:
                await asyncio.wait(futures.values(), timeout=wait_s)
            for place, future in futures.items():
                vector = future.result() if future.done() else None
                if vector is not None:
                    found[place] = vector
        return found

    async def stop(self) -> None:
        """Give up what is being computed, and store what has been.

        Texts are kept, so what is given up is computed when it is asked for again.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._saving is not None:
            await self._saving

    async def _look_up(self, wanted: set[Place]) -> dict[Place, Float32Array]:
        found: dict[Place, Float32Array] = {}
        for place in wanted:
            vector = self._memory.get(place)
            if vector is not None:
                self._memory.move_to_end(place)
                found[place] = vector
        self._metrics.features.labels("memory").inc(len(found))
        rest = wanted - found.keys() - self._computing.keys()
        if rest:
            stored: dict[Place, Float32Array] = {}
            async with self._repository.snapshot() as transaction:
                for team, hashes in _by_team(rest):
                    vectors = await transaction.vectors(team, self._encoder.name, hashes)
                    stored |= {(team, item): np.frombuffer(data, dtype=STORED) for item, data in vectors.items()}
            self._metrics.features.labels("database").inc(len(stored))
            self._remember(stored)
            found |= stored
        return found

    def _remember(self, vectors: dict[Place, Float32Array]) -> None:
        self._memory |= vectors
        while len(self._memory) > self._room:
            self._memory.popitem(last=False)

    def _prepare(self, missing: set[Place]) -> dict[Place, asyncio.Future[Float32Array | None]]:
        """Begin to compute what is not being computed; return a future for each, None where it comes to nothing."""
        new = sorted(missing - self._computing.keys())
        if new:
            loop = asyncio.get_running_loop()
            self._computing |= {place: loop.create_future() for place in new}
            task = asyncio.create_task(self._compute(new))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return {place: self._computing[place] for place in missing}

    async def _compute(self, places: Sequence[Place]) -> None:
        try:
            texts: dict[Place, str] = {}
            async with self._repository.snapshot() as transaction:
                for team, hashes in _by_team(places):
                    texts |= {(team, item): text for item, text in (await transaction.texts(team, hashes)).items()}
            futures = self._batcher.submit(texts)
            for place, future in futures.items():
                future.add_done_callback(functools.partial(self._finish, place))
            results = await asyncio.gather(*futures.values(), return_exceptions=True)
            failed = [result for result in results if isinstance(result, BaseException)]
            if failed:
                _log.warning("encoder failed", error=type(failed[0]).__name__, prompts=len(failed))
        except RolloutBudgetError as error:
            _log.warning("features not computed", error=str(error), prompts=len(places))
        finally:
            for place in places:
                self._settle(place, None)

    def _finish(self, place: Place, future: asyncio.Future[Float32Array]) -> None:
        """Take a vector from the encoder: the answer has it at once, the database when the writer gets there."""
        if future.cancelled() or future.exception() is not None:
            return
        vector = future.result()
        self._remember({place: vector})
        self._settle(place, vector)
        self._unsaved[place] = vector
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save())

    def _settle(self, place: Place, vector: Float32Array | None) -> None:
        future = self._computing.pop(place, None)
        if future is not None and not future.done():
            future.set_result(vector)

    async def _save(self) -> None:
        """Write what has come, again and again until nothing has come meanwhile."""
        while self._unsaved:
            vectors, self._unsaved = self._unsaved, {}
            rows = {place: vector.astype(STORED).tobytes() for place, vector in vectors.items()}
            try:
                async with self._repository.begin() as transaction:
                    await transaction.keep_vectors(self._encoder.name, rows)
            except RolloutBudgetError as error:
                _log.warning("features not stored", error=str(error), prompts=len(rows))


def _by_team(places: Iterable[Place]) -> Iterator[tuple[str, Sequence[str]]]:
    """Group hashes by team, as many at a time as one statement takes."""
    hashes: dict[str, list[str]] = defaultdict(list)
    for team, text_hash in places:
        hashes[team].append(text_hash)
    for team, found in hashes.items():
        for part in chunks(found):
            yield team, part
