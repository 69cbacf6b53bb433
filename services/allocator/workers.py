"""Work beside the requests: something done again and again, sooner when woken, later while it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

MAX_PAUSE_S = 60.0
"""Longest pause after failures: a dependency that is back is noticed within a minute."""

_log = structlog.get_logger(__name__)


class Worker:
    """Runs `job` every `every_s` seconds and when woken; after failures the pause doubles up to `MAX_PAUSE_S`.

    Args:
        name: for the log.
        job: one round of the work; raises when it could not be done.
        every_s: pause between two rounds.
    """

    def __init__(self, name: str, job: Callable[[], Awaitable[object]], every_s: float) -> None:
        self._name = name
        self._job = job
        self._every_s = every_s
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Ask for a round now, or after the pause of a failure."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled."""
        failures = 0
        while True:
            self._woken.clear()
            try:
                await self._job()
                failures = 0
            except Exception as error:  # noqa: BLE001  whatever one round meets, the next one is tried
                failures += 1
                _log.warning("a background round failed", worker=self._name, failures=failures, error=repr(error))
            await self._pause(failures)

    async def _pause(self, failures: int) -> None:
        if failures:
            await asyncio.sleep(min(self._every_s * 2.0 ** min(failures, 10), MAX_PAUSE_S))
            return
        try:
            async with asyncio.timeout(self._every_s):  # unlike wait_for, it never swallows a cancellation
                await self._woken.wait()
        except TimeoutError:
            return
