"""Spending as small bar charts: heights and places for an inline SVG. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.allocator.dashboard import words
from services.allocator.dashboard.spending import DAY_MINUTES, MINUTE_S, Spent

HOUR_MINUTES = 60
WIDTH, HEIGHT = 240, 44
"""Units of the drawing, which is stretched to the width it has."""
LEAST_HEIGHT = 1.5
"""Height of a bar of anything at all: it would not be seen otherwise."""
GAP = 0.25
"""Share of a bar's place that is left blank."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, in units of the drawing, and what it says."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its span and its peak in words; `text` says it without the picture."""

    bars: list[Bar]
    title: str
    peak: str
    text: str


def hour(spent: Spent, now: float) -> Chart:
    """Return the last hour by minute."""
    return _chart(spent, now, minutes=HOUR_MINUTES, each=1, title="last hour", unit="min")


def day(spent: Spent, now: float) -> Chart:
    """Return the last 24 hours by half hour."""
    return _chart(spent, now, minutes=DAY_MINUTES, each=30, title="last 24 hours", unit="30 min")


def has_more_than_an_hour(spent: Spent, now: float) -> bool:
    """Whether the day shows anything that the hour does not."""
    return any(minute <= int(now) // MINUTE_S - HOUR_MINUTES for minute in spent.minutes)


def _chart(spent: Spent, now: float, *, minutes: int, each: int, title: str, unit: str) -> Chart:
    end = int(now) // MINUTE_S + 1
    sums = [spent.between(at, at + each).rollouts for at in range(end - minutes, end, each)]
    peak, place = max(sums), WIDTH / len(sums)
    bars = []
    for index, value in enumerate(sums):
        if value:
            height = max(LEAST_HEIGHT, HEIGHT * value / peak)
            bars.append(Bar(round(index * place, 2), round(HEIGHT - height, 2), round(place * (1 - GAP), 2), round(height, 2)))  # fmt: skip
    all_of_it = f"{words.count(sum(sums))} rollouts in the {title}"
    text = f"{all_of_it}, at most {words.count(peak)} in {unit}" if peak else f"No rollouts in the {title}"
    return Chart(bars, title, f"peak {words.short(peak)} / {unit}" if peak else "nothing yet", text)
