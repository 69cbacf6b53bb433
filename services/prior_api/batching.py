"""Dynamic batching: texts of concurrent requests go to the encoder together, in one worker thread.

The first text of a batch waits `max_wait_s` for others; a full batch goes at once. The same text asked for twice while
it waits is encoded once. Owns the queue and the thread; knows nothing of caches and databases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rollout_budget.errors import Unavailable
from services.prior_api.encoders import Encoder
from services.prior_api.heads.base import Float32Array
from services.prior_api.metrics import Metrics
from services.prior_api.records import Text
from services.prior_api.weights import Unloadable


class Batcher:
    """Feeds one encoder. `start` once on the loop, `stop` at its end."""

    def __init__(
        self, encoder: Encoder, metrics: Metrics, *, max_batch: int, max_wait_s: float, max_queue: int
    ) -> None:
        self._encoder = encoder
        self._metrics = metrics
        self._max_batch, self._max_wait_s, self._max_queue = max_batch, max_wait_s, max_queue
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._queue: asyncio.Queue[Text] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[Float32Array]] = {}
        self._task: asyncio.Task[None] | None = None
        self.state = "loading"
        """`ready`, or what keeps the encoder from working."""

    def start(self) -> None:
        """Begin to load the encoder and to serve the queue."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the task and the thread; texts that still wait are given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for future in self._waiting.values():
            future.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def submit(self, texts: Sequence[Text]) -> list[asyncio.Future[Float32Array]]:
        """Queue texts; each future gives one vector, or the encoder's error.

        Raises:
            Unavailable: too many texts wait already; none of these was queued.
        """
        if len(self._waiting) + len(texts) > self._max_queue:
            raise Unavailable(f"{len(self._waiting)} texts wait for the encoder already")
        return [self._waiting.get(text.hash) or self._enqueue(text) for text in texts]

    def _enqueue(self, text: Text) -> asyncio.Future[Float32Array]:
        future = self._waiting[text.hash] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(text)
        self._metrics.queue_depth.set(len(self._waiting))
        return future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._encoder.load)
        except Exception as error:  # noqa: BLE001  whatever a model raises: the service degrades and says so
            reason = str(error) if isinstance(error, Unloadable) else type(error).__name__
            self.state = f"encoder {self._encoder.name} did not load: {reason}"
        else:
            self.state = "ready"
        while True:
            batch = await self._next_batch()
            self._metrics.batch_size.observe(len(batch))
            try:
                if self.state != "ready":
                    raise Unavailable(self.state)  # noqa: TRY301  one way for a batch to fail
                vectors = await loop.run_in_executor(self._thread, self._encoder.encode, [text.text for text in batch])
            except Exception as error:  # noqa: BLE001  the futures carry it to whoever asked
                self._settle(batch, error)
            else:
                self._settle(batch, vectors)

    async def _next_batch(self) -> list[Text]:
        batch = [await self._queue.get()]
        deadline = asyncio.get_running_loop().time() + self._max_wait_s
        while len(batch) < self._max_batch:
            if self._queue.empty():
                try:
                    async with asyncio.timeout_at(deadline):
                        batch.append(await self._queue.get())
                except TimeoutError:
                    break
            else:
                batch.append(self._queue.get_nowait())
        return batch

    def _settle(self, batch: Sequence[Text], result: Float32Array | Exception) -> None:
        for place, text in enumerate(batch):
            future = self._waiting.pop(text.hash)
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result[place])
        self._metrics.queue_depth.set(len(self._waiting))
