"""Computations beside the event loop: large ones in one thread, so that small requests are answered meanwhile (G17).

Python runs one thread at a time, so this makes nothing faster. It lets the loop in between: every `SWITCH_S` while
Python computes, at once while numpy does. One thread is enough for that; two would take turns at the same core.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Answer = TypeVar("Answer")

LARGE = 256
"""Groups from which a computation goes to the thread: some 5 ms, against 0.1 ms for going there."""
SWITCH_S = 0.0005
"""How long a computing thread may keep the loop waiting, each time the loop wakes: a small request wakes it ten times
and more, and Python's own 5 ms add up."""


class Thread:
    """One worker thread for a service's computations."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="compute")
        sys.setswitchinterval(SWITCH_S)

    async def __call__(self, compute: Callable[[], Answer], size: int) -> Answer:
        """Return what `compute` returns, here or in the thread, by the number of groups it is about."""
        if size < LARGE:
            return compute()
        return await asyncio.get_running_loop().run_in_executor(self._executor, compute)

    def close(self) -> None:
        """Let the thread end."""
        self._executor.shutdown(wait=False, cancel_futures=True)
