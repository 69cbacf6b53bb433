"""What a benchmark run is asked to do, and the figures it gives back."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Part = Literal["steps", "single", "growth", "hot", "memory"]
PARTS: tuple[Part, ...] = ("steps", "single", "growth", "hot", "memory")
Kind = Literal["sqlite", "postgresql"]
KINDS: tuple[Kind, ...] = ("sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that a part needs.

    Attributes:
        folder: scratch directory, on the disk that is measured.
        postgres: URL of a PostgreSQL server on which databases can be created.
        databases: which to measure.
        seeds: one repetition per seed.
        duration_s: length of one repetition of `single` and of `growth` per server.
        rate: requests per second of `single` and `growth`.
        quick: small sizes, to see that it runs; the figures mean nothing.
    """

    folder: Path
    postgres: str
    databases: tuple[Kind, ...]
    seeds: tuple[int, ...]
    duration_s: float
    rate: float
    quick: bool

    def calls(self) -> int:
        """Return how many groups one repetition opens, observes and closes at `rate`."""
        return max(10, int(self.duration_s * self.rate / 3))


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report: a ratio per repetition, what it is held to, and what was measured on both sides."""

    name: str
    database: str
    target: str
    ratios: Sequence[float]
    ours: float
    theirs: float
    unit: str
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Median over the repetitions."""
        return statistics.median(self.ratios)

    def line(self) -> str:
        """Return the figure as a row of a Markdown table."""
        low, high = min(self.ratios), max(self.ratios)
        notes = ", ".join(f"{key} {value:.4g}" for key, value in self.notes.items())
        return (
            f"| {self.name} | {self.database} | {self.ratio:.2f} ({low:.2f} to {high:.2f}) | {self.target} "
            f"| {self.ours:.4g} | {self.theirs:.4g} | {self.unit} | {notes} |"
        )


HEADER = (
    "| figure | database | ratio (spread) | target | service | reference | unit | notes |\n"
    "|---|---|---|---|---|---|---|---|"
)
