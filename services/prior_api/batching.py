"""Dynamic batching: texts of concurrent requests go to the encoder together, in one worker thread.

A batch is the text that has waited longest and those nearest to it in length of all that wait, so that next to nothing
is padded and none waits for ever. While the encoder works on one batch the next lies ready, once there are texts enough
to fill it; where the encoder is idle the first text waits `max_wait_s` for others. Owns the queue and the thread; knows
nothing of caches and databases.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from rollout_budget.errors import Unavailable
from services.prior_api.encoders import Encoder
from services.prior_api.heads.base import Float32Array
from services.prior_api.metrics import Metrics
from services.prior_api.weights import Unloadable

Place = tuple[str, str]
"""Team and text hash: whose text it is, and which."""
DEPTH = 2
"""Batches handed to the thread at a time: one that it works on and one that lies ready."""


class Batcher:
    """Feeds one encoder. `start` once on the loop, `stop` at its end."""

    def __init__(
        self, encoder: Encoder, metrics: Metrics, *, max_batch: int, max_wait_s: float, max_queue: int
    ) -> None:
        self._encoder = encoder
        self._metrics = metrics
        self._max_batch, self._max_wait_s, self._max_queue = max_batch, max_wait_s, max_queue
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._texts: dict[Place, tuple[int, int, str]] = {}
        """Texts that wait, the first to come first, each with its length and its number."""
        self._by_length: list[tuple[int, int, Place]] = []
        self._count = 0
        self._futures: dict[Place, asyncio.Future[Float32Array]] = {}
        self._flights: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.state = "loading"
        """`ready`, or what keeps the encoder from working."""

    def start(self) -> None:
        """Begin to load the encoder and to serve the queue."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the task and the thread; texts that still wait are given up."""
        tasks = {task for task in (self._task, *self._flights) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for future in self._futures.values():
            future.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def submit(self, texts: Mapping[Place, str]) -> dict[Place, asyncio.Future[Float32Array]]:
        """Queue texts; each future gives one vector, or the encoder's error. A text that waits already is not queued again.

        Raises:
            Unavailable: too many texts wait already; none of these was queued.
        """
        if len(self._futures) + len(texts) > self._max_queue:
            raise Unavailable(f"{len(self._futures)} texts wait for the encoder already")
        new = [place for place in texts if place not in self._futures]
        loop = asyncio.get_running_loop()
        for place in new:
            self._count += 1
            self._futures[place] = loop.create_future()
            self._texts[place] = len(texts[place]), self._count, texts[place]
        self._by_length += [(*self._texts[place][:2], place) for place in new]
        self._by_length.sort()
        self._metrics.queue_depth.set(len(self._futures))
        self._changed.set()
        return {place: self._futures[place] for place in texts}

    async def _run(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.load)
        except Exception as error:  # noqa: BLE001  whatever a model raises: the service degrades and says so
            reason = str(error) if isinstance(error, Unloadable) else type(error).__name__
            self.state = f"encoder {self._encoder.name} did not load: {reason}"
        else:
            self.state = "ready"
            self._metrics.encoder_ready.set(1)
        while True:
            await self._until_due()
            flight = asyncio.create_task(self._fly(self._take()))
            self._flights.add(flight)
            flight.add_done_callback(self._land)

    async def _until_due(self) -> None:
        """Wait for a full batch and a place for it, or until the encoder has been idle beside a text long enough."""
        deadline: float | None = None
        while len(self._by_length) < self._max_batch or len(self._flights) >= DEPTH:
            idle = bool(self._by_length) and not self._flights
            if not idle:
                deadline = None
            elif deadline is None:
                deadline = asyncio.get_running_loop().time() + self._max_wait_s
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return
            self._changed.clear()

    def _take(self) -> dict[Place, str]:
        """Remove and return one batch, in order of length."""
        length, number, _ = next(iter(self._texts.values()))
        middle = bisect_left(self._by_length, (length, number))
        start = max(0, min(middle - self._max_batch // 2, len(self._by_length) - self._max_batch))
        window = slice(start, start + self._max_batch)
        places = [place for _, _, place in self._by_length[window]]
        del self._by_length[window]
        return {place: self._texts.pop(place)[2] for place in places}

    async def _fly(self, batch: Mapping[Place, str]) -> None:
        self._metrics.batch_size.observe(len(batch))
        try:
            if self.state != "ready":
                raise Unavailable(self.state)  # noqa: TRY301  one way for a batch to fail
            loop = asyncio.get_running_loop()
            vectors = await loop.run_in_executor(self._thread, self._encode, list(batch.values()))
        except Exception as error:  # noqa: BLE001  the futures carry it to whoever asked
            self._settle(list(batch), error)
        else:
            self._settle(list(batch), vectors)

    def _encode(self, texts: list[str]) -> Float32Array:
        """Call the encoder and time it, in its thread."""
        with self._metrics.encoder.time():
            return self._encoder.encode(texts)

    def _land(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        self._changed.set()

    def _settle(self, batch: Sequence[Place], result: Float32Array | Exception) -> None:
        for row, place in enumerate(batch):
            future = self._futures.pop(place)
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result[row].copy())
        self._metrics.queue_depth.set(len(self._futures))
