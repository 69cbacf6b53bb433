"""What vLLM says of its own work between two moments: tokens, time in its queue, how many completions ran together."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

LOOK_S = 0.25
"""Between two looks at what runs; a look costs a server some milliseconds, the same in both arms."""
TOKENS = "generation_tokens_total"
QUEUED_S = "request_queue_time_seconds_sum"
STARTED = "request_queue_time_seconds_count"
RUNNING = "num_requests_running"


@dataclass(slots=True)
class Reading:
    """Over all servers, from the beginning to the end of a block.

    Attributes:
        seconds: on the clock.
        tokens: sampled, cancelled completions included.
        queued_s: mean time that a completion waited in a server's queue.
        busy: share of looks at which a server ran something, in [0, 1].
        together: mean number of completions that ran on a server.
    """

    seconds: float = 0.0
    tokens: float = 0.0
    queued_s: float = 0.0
    busy: float = 0.0
    together: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens per second."""
        return self.tokens / self.seconds


class Meter:
    """Reads the metrics of vLLM servers."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._clients = [httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) for url in urls]

    async def close(self) -> None:
        """Release connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reading]:
        """Enter a reading that is complete after the block."""
        found = Reading()
        running: list[float] = []
        before = await self._totals()
        watch = asyncio.create_task(self._watch(running))
        began = time.monotonic()
        try:
            yield found
            found.seconds = time.monotonic() - began
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        after = await self._totals()
        found.tokens = after[TOKENS] - before[TOKENS]
        found.queued_s = (after[QUEUED_S] - before[QUEUED_S]) / max(after[STARTED] - before[STARTED], 1.0)
        found.busy = sum(count > 0 for count in running) / max(len(running), 1)
        found.together = sum(running) / max(len(running), 1)

    async def _watch(self, running: list[float]) -> None:
        while True:
            running += [values[RUNNING] for values in await self._values()]
            await asyncio.sleep(LOOK_S)

    async def _totals(self) -> dict[str, float]:
        values = await self._values()
        return {name: sum(value[name] for value in values) for name in (TOKENS, QUEUED_S, STARTED)}

    async def _values(self) -> list[dict[str, float]]:
        answers = await asyncio.gather(*(client.get("/metrics") for client in self._clients))
        return [
            {
                name: sum(float(v) for v in re.findall(rf"^vllm:{name}\{{.*\}} (\S+)$", answer.text, re.MULTILINE))
                for name in (TOKENS, QUEUED_S, STARTED, RUNNING)
            }
            for answer in answers
        ]
