"""Work beside the requests: something done again and again, sooner when woken, later while it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

MAX_PAUSE_S = 60.0
"""Longest pause after failures: a dependency that is back is noticed within a minute."""
STOP_S = 5.0
"""How long a round under way may go on at the end: one that is cut off leaves a database connection half open."""

_log = structlog.get_logger(__name__)


class Worker:
    """Runs `job` every `every_s` seconds and when woken; after failures the pause doubles up to `MAX_PAUSE_S`.

    Args:
        name: for the log.
        job: one round of the work; raises when it could not be done.
        every_s: pause between two rounds.
        gather_s: pause between being woken and the round, which then serves whoever woke it meanwhile, too.
    """

    def __init__(
        self, name: str, job: Callable[[], Awaitable[object]], every_s: float, *, gather_s: float = 0.0
    ) -> None:
        self._name = name
        self._job = job
        self._every_s = every_s
        self._gather_s = gather_s
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with the first round."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Let the round under way end, for at most `STOP_S`; no other follows."""
        self._stopping.set()
        self._woken.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=STOP_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        """Ask for a round now, or after the pause of a failure."""
        self._woken.set()

    async def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                await self._job()
                failures = 0
            except Exception as error:  # noqa: BLE001  whatever one round meets, the next one is tried
                failures += 1
                _log.warning("a background round failed", worker=self._name, failures=failures, error=repr(error))
            await self._pause(failures)

    async def _pause(self, failures: int) -> None:
        """Wait for the next round; being woken shortens no pause after a failure, being stopped shortens any."""
        if failures:
            await self._wait(self._stopping, min(self._every_s * 2.0 ** min(failures, 10), MAX_PAUSE_S))
        elif not self._stopping.is_set() and await self._wait(self._woken, self._every_s):
            await self._wait(self._stopping, self._gather_s)

    async def _wait(self, signal: asyncio.Event, pause_s: float) -> bool:
        """Wait for a signal, so long at most; say whether it came."""
        try:
            async with asyncio.timeout(pause_s):  # unlike wait_for, it never swallows a cancellation
                return await signal.wait()
        except TimeoutError:
            return False
