"""Figures as people read them: grouped digits, units, spans of time. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime

THIN = "\N{NARROW NO-BREAK SPACE}"
"""Between a figure and its unit: they stay on one line."""
MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
"""In place of a figure that is not known yet."""
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
PLAIN_BELOW = 1e4
"""Counts below it are written out."""


def count(value: float) -> str:
    """Return a count with its digits in threes; a true minus sign where it is negative."""
    return f"{value:,.0f}".replace("-", MINUS)


def short(value: float) -> str:
    """Return a count of up to four digits as it is, of more in three digits, as `12.3 M`."""
    if abs(value) < PLAIN_BELOW:
        return count(value)
    step, letter = next((step, letter) for step, letter in _SCALES if abs(value) >= 0.9995 * step)
    scaled = abs(value) / step
    decimals = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
    return f"{value / step:,.{decimals}f}{THIN}{letter}".replace("-", MINUS)


def hours(seconds: float) -> str:
    """Return GPU time: in seconds up to a tenth of an hour, in hours beyond."""
    if abs(seconds) < 360:
        return f"{count(seconds)}{THIN}GPU-s"
    written = f"{seconds / 3_600:,.{2 if abs(seconds) < 36_000 else 1}f}"
    return f"{written.replace('-', MINUS)}{THIN}GPU-h"


def share(part: float, whole: float) -> str:
    """Return a share in per cent, or a dash of nothing; what is not quite none or all never reads as if it were."""
    return percent(part / whole) if whole else NONE


def percent(value: float | None) -> str:
    """Return a ratio in per cent."""
    if value is None:
        return NONE
    if 0 < value < 0.01:
        return f"<{THIN}1{THIN}%"
    if 0.99 < value < 1:
        return f">{THIN}99{THIN}%"
    return f"{value * 100:,.0f}{THIN}%".replace("-", MINUS)


def figure(value: float | None, digits: int = 2) -> str:
    """Return a figure with so many significant digits, plainly written."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.{digits}g}".replace("-", MINUS) if value and abs(value) < 1e-3 else _plain(value, digits)


def span(seconds: float) -> str:
    """Return a span of time in its two largest units."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "under a minute"
    days, rest = divmod(minutes, 1_440)
    hours_, left = divmod(rest, 60)
    parts = [(days, "d"), (hours_, "h"), (left, "min")]
    first = next(place for place, (amount, _) in enumerate(parts) if amount)
    return " ".join(f"{amount}{THIN}{unit}" for amount, unit in parts[first : first + 2] if amount)


def clock(at_s: float) -> str:
    """Return the time of day, UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%S")


def moment(at_s: float, now_s: float) -> str:
    """Return a moment that is still to come: its time, and its day unless that is today."""
    at, now = datetime.fromtimestamp(at_s, UTC), datetime.fromtimestamp(now_s, UTC)
    return at.strftime("%H:%M UTC" if at.date() == now.date() else "%d %b, %H:%M UTC")


def _plain(value: float, digits: int) -> str:
    decimals = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
    return f"{value:.{decimals}f}".replace("-", MINUS)
