"""Which learning rate a method has: the one with the best end on the tuning seeds, on both pools together.

The measure is final held-out accuracy, for every method alike. It is the reference's own aim, so its rate is the one that
makes it hardest to reach.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.learning.analysis import final
from benchmarks.learning.cells import TUNING_SEEDS
from benchmarks.learning.methods import ALL
from benchmarks.learning.results import Result


class NotTuned(Exception):
    """A method has no runs on the tuning seeds."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What the tuning found: mean final accuracy by task, method and rate."""

    found: dict[tuple[str, str], dict[float, float]]

    @classmethod
    def from_results(cls, results: Sequence[Result]) -> Rates:
        """Gather the results of tuning seeds."""
        ends: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for result in results:
            if result.seed in TUNING_SEEDS:
                ends[result.task, result.method][result.rate].append(final(result))
        return cls(
            {
                place: {rate: sum(values) / len(values) for rate, values in sorted(by_rate.items())}
                for place, by_rate in ends.items()
            }
        )

    def of(self, task: str, method: str) -> float:
        """Return the rate of a method, its own or that of the one it takes it from.

        Raises:
            NotTuned: there are no runs to choose by.
        """
        by_rate = self.found.get((task, method)) or self.found.get((task, ALL[method].rate_of))
        if not by_rate:
            raise NotTuned(f"no tuning runs of {method} on {task}: python -m benchmarks.learning tune")
        return max(by_rate, key=lambda rate: by_rate[rate])
