"""A small event loop with virtual time, and the three things that calls wait for: a core, a slot, a moment.

Owns no domain. A process is a generator; it yields seconds to sleep, or a `Wait` to be woken by someone else (or by its
deadline). Everything is decided by the order of events alone, so that one seed gives one history.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator
from typing import Any

Process = Generator[Any, Any, Any]
"""Yields a float (seconds) or a `Wait`; what it is sent back is None, or what it was woken with."""


class Wait:
    """One process waiting to be woken once: with a value by `wake`, with None at its deadline."""

    __slots__ = ("deadline_s", "process", "value", "woken")

    def __init__(self, deadline_s: float = math.inf) -> None:
        self.deadline_s = deadline_s
        self.process: Process | None = None
        self.woken = False
        self.value: Any = None


class Loop:
    """Virtual time and what happens next."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._order = 0
        self._heap: list[tuple[float, int, Process | None, Wait | None]] = []

    def spawn(self, process: Process, delay_s: float = 0.0) -> None:
        """Start a process after `delay_s`."""
        self._push(delay_s, process, None)

    def wake(self, wait: Wait, value: Any) -> bool:
        """Wake a waiting process now; say whether it was still waiting (or had not begun to)."""
        if wait.woken:
            return False
        wait.woken, wait.value = True, value
        if wait.process is not None:
            self._push(0.0, wait.process, wait)
        return True

    def run(self, until_s: float) -> None:
        """Let everything happen up to a moment."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            moment, _, process, wait = heapq.heappop(heap)
            self.now = moment
            self.events += 1
            if process is not None:
                self._advance(process, None if wait is None else wait.value)
            elif wait is not None and not wait.woken:
                wait.woken = True
                if wait.process is not None:
                    self._advance(wait.process, None)
        self.now = until_s

    def _advance(self, process: Process, value: Any) -> None:
        try:
            asked = process.send(value)
        except StopIteration:
            return
        if type(asked) is float:
            self._push(asked, process, None)
            return
        wait: Wait = asked
        if wait.woken:
            self._push(0.0, process, wait)
            return
        wait.process = process
        if wait.deadline_s < math.inf:
            self._push(wait.deadline_s, None, wait)

    def _push(self, delay_s: float, process: Process | None, wait: Wait | None) -> None:
        self._order += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._order, process, wait))


class Cores:
    """Some cores that serve work in the order in which it came. `busy_s` counts what was served."""

    def __init__(self, loop: Loop, count: int) -> None:
        self._loop = loop
        self._free = [0.0] * count
        self.count = count
        self.busy_s = 0.0

    def work(self, seconds: float) -> float:
        """Return how long work of `seconds` takes from now, its turn included."""
        now = self._loop.now
        begins = max(now, self._free[0])
        heapq.heapreplace(self._free, begins + seconds)
        self.busy_s += seconds
        return begins + seconds - now

    def queue_s(self) -> float:
        """Return how long new work would wait now."""
        return max(0.0, self._free[0] - self._loop.now)


class Slots:
    """Some slots (locks are one), given in the order in which they were asked for. `busy_s` counts held seconds."""

    def __init__(self, loop: Loop, count: int) -> None:
        self._loop = loop
        self._left = count
        self._queue: deque[Wait] = deque()
        self._changed_s = 0.0
        self._held = 0
        self.busy_s = 0.0

    def take(self) -> bool:
        """Take a slot if one is free now."""
        if self._left == 0:
            return False
        self._left -= 1
        self._count(1)
        return True

    def wait(self, deadline_s: float) -> Wait:
        """Return what to yield for a slot: it answers True, or None at the deadline."""
        wait = Wait(deadline_s)
        self._queue.append(wait)
        return wait

    def give(self) -> None:
        """Give a slot back, to whoever waits first."""
        while self._queue:
            if self._loop.wake(self._queue.popleft(), value=True):
                return
        self._left += 1
        self._count(-1)

    def held_s(self) -> float:
        """Return slot-seconds held so far."""
        self._count(0)
        return self.busy_s

    def _count(self, change: int) -> None:
        now = self._loop.now
        self.busy_s += self._held * (now - self._changed_s)
        self._held += change
        self._changed_s = now
