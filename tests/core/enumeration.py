"""Exact expectations: every outcome pattern of a group with its probability, for fixed and for stopped groups."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from rollout_budget.decisions import Rules, first_wave, next_wave
from rollout_budget.groups import Groups
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import Reliability

Pattern = tuple[float, ...]

RATES = (0.0, 0.05, 0.3, 0.5, 0.8, 1.0)
PRIORS = (0.0, 0.1, 0.25, 0.5, 0.9, 1.0)


def patterns(k: int) -> list[Pattern]:
    """Return all 2^k outcome patterns of k rollouts."""
    return list(product((0.0, 1.0), repeat=k))


def probabilities(drawn: Sequence[Pattern], p: float) -> FloatArray:
    """Return the probability of each pattern at success rate p."""
    successes = np.array([sum(pattern) for pattern in drawn])
    sizes = np.array([len(pattern) for pattern in drawn])
    return np.asarray(p**successes * (1.0 - p) ** (sizes - successes), dtype=np.float64)


def same_prior(prior: float, drawn: Sequence[Pattern]) -> Groups:
    """Return one group per pattern, all with this prior."""
    return Groups.of([prior] * len(drawn), drawn)


def stopped(rules: Rules, prior: float, reliability: Reliability) -> tuple[list[Pattern], int]:
    """Follow a stopping rule down every branch: return all final patterns and the size of the first wave."""
    first = int(first_wave(rules, same_prior(prior, [()]), reliability).wanted[0])
    final: list[Pattern] = []
    live = patterns(first)
    while live:
        more = next_wave(rules, same_prior(prior, live), reliability).wanted
        final += [pattern for pattern, n in zip(live, more, strict=True) if n == 0]
        live = [pattern + rest for pattern, n in zip(live, more, strict=True) if n > 0 for rest in patterns(int(n))]
    return final, first
