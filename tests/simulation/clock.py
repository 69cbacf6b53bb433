"""An event loop whose time passes only when nobody has anything to do: an hour of sleep costs nothing.

Owns time. There is no selector, no socket and no thread: what is not waiting for time or for another task never wakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

RESOLUTION_S = 1e-6
"""Two timers this close fire together; above the rounding of times up to some years."""


class Stuck(Exception):
    """Every task waits for another one: a deadlock in what is simulated."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready; when nothing is, moves time to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._clock_resolution = RESOLUTION_S
        self._selector = self

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.now

    def select(self, timeout: float | None) -> list[object]:
        """Wait as a selector would: by moving time.

        Raises:
            Stuck: there is no timer to wait for.
        """
        if timeout is None:
            raise Stuck("every task waits for another one")
        self.now += max(timeout, 0.0)
        return []

    def _process_events(self, event_list: list[object]) -> None:
        """Nothing ever comes from outside."""

    def _write_to_self(self) -> None:
        """Nobody wakes it from outside."""


def run(main: Coroutine[Any, Any, T], loop: VirtualLoop) -> T:
    """Run a coroutine to its end on a loop, then end what it left behind and close the loop."""
    try:
        return loop.run_until_complete(main)
    finally:
        left = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
