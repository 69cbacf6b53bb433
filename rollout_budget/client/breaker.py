"""A circuit breaker as a value: it says whether a service may be called now. Owns no clock and no call.

Closed, every call goes through. After `threshold` failures in a row it opens: calls are answered elsewhere at once,
except one probe, whose verdict all others await. Probes come `probe_after_s` after the first failure and twice as late
after each further one, up to `probe_after_max_s`; so little of a long outage is spent on asking, and a service that is
back is found again after at most twice the time it was away, or that bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Breaker:
    """State of one service; every transition returns a new one. Times are of the caller's monotonic clock, seconds."""

    threshold: int = 1
    probe_after_s: float = 2.0
    probe_after_max_s: float = 60.0
    failures: int = 0
    probe_at: float = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether the service counts as away."""
        return self.failures >= self.threshold

    def allows(self, now: float) -> bool:
        """Say whether a call may be sent: always while closed, one probe when it is due while open."""
        return not self.is_open or now >= self.probe_at

    def sent(self, now: float) -> Breaker:
        """Return the state after a call that was allowed went out; while open, no other goes out before its verdict."""
        return replace(self, probe_at=now + self._interval) if self.is_open else self

    def due(self) -> Breaker:
        """Return the state in which the next call goes out, whatever happened before."""
        return replace(self, probe_at=-math.inf)

    def succeeded(self) -> Breaker:
        """Return the state after an answer of any kind: the service is there."""
        return replace(self, failures=0, probe_at=-math.inf)

    def failed(self, now: float) -> Breaker:
        """Return the state after a call without an answer."""
        counted = replace(self, failures=self.failures + 1)
        return replace(counted, probe_at=now + counted._interval)  # noqa: SLF001 - its own kind

    @property
    def _interval(self) -> float:
        beyond = min(max(self.failures - self.threshold, 0), 64)
        return min(self.probe_after_s * 2.0**beyond, self.probe_after_max_s)
