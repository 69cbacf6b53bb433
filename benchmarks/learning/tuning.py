"""Which learning rate a method has: the best on the tuning seeds, on both pools together.

The reference's is the one with the best final accuracy, which sets the level that others have to reach as high as it can
be. All others have the one with the best mean accuracy over the run: the level is to be reached early, and kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.learning.analysis import final, mean
from benchmarks.learning.cells import TUNING_SEEDS
from benchmarks.learning.methods import ALL, REFERENCE
from benchmarks.learning.results import Result


class NotTuned(Exception):
    """A method has no runs on the tuning seeds."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What the tuning found: what is to be large, by task, method and rate."""

    found: dict[tuple[str, str], dict[float, float]]

    @classmethod
    def from_results(cls, results: Sequence[Result]) -> Rates:
        """Gather the results of tuning seeds."""
        found: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for result in results:
            if result.seed in TUNING_SEEDS:
                measure = final if result.method == REFERENCE else mean
                found[result.task, result.method][result.rate].append(measure(result))
        return cls(
            {
                place: {rate: sum(values) / len(values) for rate, values in sorted(by_rate.items())}
                for place, by_rate in found.items()
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
