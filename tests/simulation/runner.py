"""Many histories one after another: how far, what was found, and the shortest command that shows it again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.simulation.world import Report, simulate


@dataclass(slots=True)
class Total:
    """The sums over histories."""

    histories: int = 0
    steps: int = 0
    transactions: int = 0
    training_steps: int = 0
    rollouts: int = 0
    virtual_s: float = 0.0
    wall_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    failed: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Count a history."""
        self.histories += 1
        self.steps += report.steps
        self.transactions += report.transactions
        self.training_steps += report.training_steps
        self.rollouts += report.rollouts
        self.virtual_s += report.virtual_s
        self.faults += report.faults
        if report.violations:
            self.failed.append(report)


def run_seeds(
    seeds: Iterable[int],
    steps: int,
    *,
    until: Callable[[], bool] = lambda: False,
    tell: Callable[[Report], None] = lambda _: None,
) -> Total:
    """Simulate seeds until one fails, they end, or `until` says so; `tell` hears of each."""
    total, began = Total(), time.perf_counter()
    for seed in seeds:
        if until() or total.failed:
            break
        report = simulate(seed, steps)
        total.add(report)
        tell(report)
    total.wall_s = time.perf_counter() - began
    return total


def shortest(report: Report, steps: int) -> tuple[Report, int]:
    """Return a failing history of the same seed and the length of its storm, the shortest that bisection finds.

    A storm that is cut short is the same up to there; what a longer one would have broken may not break then, so the
    result is short, not always the shortest.
    """
    found, good, bad = report, 0, min(report.steps + 1, steps)
    shorter = simulate(report.seed, bad)
    if not shorter.violations:
        return report, steps
    while bad - good > 1:
        middle = (good + bad) // 2
        shorter = simulate(report.seed, middle)
        if shorter.violations:
            found, bad = shorter, middle
        else:
            good = middle
    return found, bad


def replay(report: Report, steps: int, mutation: str | None = None) -> str:
    """Return the command that lives through a history again."""
    mutate = f" --mutate {mutation}" if mutation else ""
    return f"python -m tests.simulation --seed {report.seed} --steps {steps}{mutate} --trace"
