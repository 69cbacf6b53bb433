"""The three units that budgets are counted in, and how many rollouts a limit in each still lets through. Pure.

Rollouts are known when they are granted; tokens and GPU time only when a group is closed. Time is counted in whole
milliseconds, so that sums are exact. The rule for one limit, the same for all three units:

- a rollout of a run that declared what one rollout holds (`tokens_per_rollout`, `gpu_seconds_per_rollout`) holds that
  much from its grant until it is settled or its lease ends; a grant of n needs n times as much left. As long as no
  rollout uses more than was declared, no limit is ever passed;
- a rollout of a run that declared nothing holds nothing: grants go on while the limit is not reached, and the use of
  what was granted before may then pass it.
"""

from __future__ import annotations

from typing import NamedTuple

MILLISECONDS = 1000
"""In a second."""


class Amounts(NamedTuple):
    """So much of each unit."""

    rollouts: int = 0
    tokens: int = 0
    milliseconds: int = 0

    def times(self, count: int) -> Amounts:
        """Return `count` times as much."""
        return Amounts(self.rollouts * count, self.tokens * count, self.milliseconds * count)


class Caps(NamedTuple):
    """The most of each unit, None where there is no limit."""

    rollouts: int | None = None
    tokens: int | None = None
    milliseconds: int | None = None


NO_AMOUNTS = Amounts()
ONE = Amounts(1)
"""What a rollout holds where nothing was declared."""


def milliseconds(seconds: float) -> int:
    """Return a time in whole milliseconds, rounded."""
    return round(seconds * MILLISECONDS)


def seconds(whole_milliseconds: int) -> float:
    """Return a time in seconds."""
    return whole_milliseconds / MILLISECONDS


def beside(each: Amounts, rollouts: int) -> Amounts:
    """Return the tokens and time that so many rollouts hold beside themselves."""
    return Amounts(0, each.tokens * rollouts, each.milliseconds * rollouts)


def need(each: Amounts, rollouts: int) -> Amounts:
    """Return how much must be left of each unit for a grant of `rollouts >= 1` that hold `each`: something, at least."""
    return Amounts(*(max(1, held) for held in each.times(rollouts)))


def room(caps: Caps, charged: Amounts, each: Amounts) -> int | None:
    """Return how many more rollouts that hold `each` these limits let through, None if any number.

    Negative where more than a limit is charged already and rollouts hold something of its unit.
    """
    left = [_room(cap, used, one) for cap, used, one in zip(caps, charged, each, strict=True) if cap is not None]
    return min((some for some in left if some is not None), default=None)


def _room(cap: int, used: int, one: int) -> int | None:
    if one:
        return (cap - used) // one
    return None if used < cap else 0
