"""What a load run says: latencies by exact order statistics, and good answers per second."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.load.wire import Result


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one team.

    Attributes:
        statuses: how many answers of each kind; 0 is none.
        good_per_s: 2xx answers per second of the schedule.
        p50_s, p99_s, worst_s: latency of 2xx answers, from their scheduled moment; NaN without one.
        turned_p99_s: latency of 429 and 503; NaN without one.
    """

    sent: int
    statuses: Mapping[int, int]
    good_per_s: float
    p50_s: float
    p99_s: float
    worst_s: float
    turned_p99_s: float

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} x {status or 'none'}" for status, count in sorted(self.statuses.items()))
        times = f"p50 {1e3 * self.p50_s:.1f} ms, p99 {1e3 * self.p99_s:.1f} ms, worst {1e3 * self.worst_s:.0f} ms"
        turned = "" if math.isnan(self.turned_p99_s) else f"; turned away in {1e3 * self.turned_p99_s:.1f} ms (p99)"
        return f"{self.good_per_s:.1f} good/s, {times} ({kinds}){turned}"


def summary(results: Sequence[Result], seconds: float) -> dict[str, Summary]:
    """Return the figures of each `who`, whose schedule lasted so many seconds."""
    names = dict.fromkeys(result.who for result in results)
    return {name: _one([result for result in results if result.who == name], seconds) for name in names}


def good_per_s(results: Sequence[Result], start_s: float, end_s: float) -> float:
    """Return 2xx answers per second that were complete in a window of time."""
    done = sum(1 for result in results if 200 <= result.status < 300 and start_s <= result.done_s < end_s)
    return done / (end_s - start_s)


def quantile(values: Sequence[float], q: float) -> float:
    """Return the smallest value that a share `q` of all does not exceed; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else math.nan


def _one(results: Sequence[Result], seconds: float) -> Summary:
    good = [result.latency_s for result in results if 200 <= result.status < 300]
    turned = [result.latency_s for result in results if result.status in {429, 503}]
    return Summary(
        sent=len(results),
        statuses=Counter(result.status for result in results),
        good_per_s=len(good) / seconds,
        p50_s=quantile(good, 0.5),
        p99_s=quantile(good, 0.99),
        worst_s=max(good, default=math.nan),
        turned_p99_s=quantile(turned, 0.99),
    )
