"""The same decision as a plain loop: empirical Bayes, posterior variance and a share under a cap, group by group.

Written from the formulas, without numpy and without the package's own code: it is both the yardstick and a check.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Strength of the prior, price of a rollout (unit scale), largest group."""

    strength: float
    price: float
    k_max: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One entry per group: fused value, baseline of each sample, further rollouts wished for and granted."""

    values: list[float]
    per_sample: list[list[float]]
    wanted: list[int]
    granted: list[int]


def decide(priors: list[float], outcomes: list[list[float]], settings: Settings, cap: int) -> Answer:
    """Decide one group after the other, then hand out the cap one rollout at a time, most worthy first."""
    values, per_sample, wanted, heap = [], [], [], []
    for index, (prior, drawn) in enumerate(zip(priors, outcomes, strict=True)):
        size = settings.strength + len(drawn)
        mass = settings.strength * prior + sum(drawn)
        value = mass / size
        scale = value * (1 - value) / (size + 1) * size
        most = max(settings.k_max - len(drawn), 0)
        number = 0
        while number < most and scale / ((size + number) * (size + number + 1)) > settings.price:
            number += 1
        values.append(value)
        per_sample.append([(mass - outcome) / (size - 1) for outcome in drawn])
        wanted.append(number)
        if number:
            heap.append((-scale / (size * (size + 1)), index, scale, size))
    return Answer(values, per_sample, wanted, _share(heap, wanted, cap))


def _share(heap: list[tuple[float, int, float, float]], wanted: list[int], cap: int) -> list[int]:
    granted = [0] * len(wanted)
    heapq.heapify(heap)
    for _ in range(min(cap, sum(wanted))):
        _, index, scale, size = heap[0]
        granted[index] += 1
        ahead = size + granted[index]
        if granted[index] < wanted[index]:
            heapq.heapreplace(heap, (-scale / (ahead * (ahead + 1)), index, scale, size))
        else:
            heapq.heappop(heap)
    return granted
