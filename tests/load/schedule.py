"""When requests are sent, in seconds from the start."""

from __future__ import annotations

import random


def poisson(per_s: float, seconds: float, seed: int) -> list[float]:
    """Return arrivals that know nothing of each other: many independent trainers."""
    chance = random.Random(seed)  # noqa: S311  a schedule, not a secret
    moments: list[float] = []
    at = chance.expovariate(per_s)
    while at < seconds:
        moments.append(at)
        at += chance.expovariate(per_s)
    return moments


def steady(per_s: float, seconds: float) -> list[float]:
    """Return evenly spaced arrivals."""
    return [place / per_s for place in range(int(per_s * seconds))]
