"""When a limit is reached if spending goes on as it has lately. Pure: time is an argument.

The rate is that of the last hour, or of as much of it as there was any spending in: a team that began ten minutes ago is
not taken for one that idled for fifty.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rollout_budget.ledger.units import Amounts, seconds
from rollout_budget.wire import LimitName
from services.allocator.dashboard.spending import MINUTE_S, Spent

WINDOW_MINUTES = 60
LEAST_S = 60.0
"""Shortest time that a rate is stated of: over less, one group would be a trend."""
FAR_S = 400 * 86_400.0
"""Beyond a year a forecast says nothing."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Use per second, in rollouts, tokens and GPU-seconds, over the last `over_s` seconds."""

    rollouts: float
    tokens: float
    gpu_seconds: float
    over_s: float

    def of(self, name: LimitName) -> float:
        """Return the rate in the unit of a limit."""
        unit = name.partition("_per_")[0]
        return float(getattr(self, unit))


@dataclass(frozen=True, slots=True)
class Forecast:
    """`after_s` until a limit is reached, None if it is not; `renews_s` until it starts anew, None if it never does."""

    after_s: float | None
    renews_s: float | None


def rate(spent: Spent, now: float) -> Rate:
    """Return the present rate of a team."""
    end = int(now) // MINUTE_S + 1
    first = end - WINDOW_MINUTES
    began = min((minute for minute in spent.minutes if minute >= first), default=first)
    used: Amounts = spent.between(first, end)
    over_s = max(LEAST_S, now - began * MINUTE_S)
    return Rate(used.rollouts / over_s, used.tokens / over_s, seconds(used.milliseconds) / over_s, over_s)


def forecast(name: LimitName, left: float, rate_: Rate, now: float) -> Forecast:
    """Return when a limit of which `left` is left, in its unit, is reached at this rate."""
    renews_s = _renews(name, now)
    per_s = rate_.of(name)
    if left <= 0:
        return Forecast(0.0, renews_s)
    after_s = left / per_s if per_s > 0 else None
    lasts = after_s is None or after_s > FAR_S or (renews_s is not None and after_s >= renews_s)
    return Forecast(None if lasts else after_s, renews_s)


def _renews(name: LimitName, now: float) -> float | None:
    """Return the seconds until a limit's window ends: days and months are UTC."""
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if name.endswith("_per_day"):
        return (today + timedelta(days=1)).timestamp() - now
    if name.endswith("_per_month"):
        return (today.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp() - now
    return None
