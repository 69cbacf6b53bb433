"""Colours, from the style sheet itself: WCAG 2.2's contrasts, computed for light and for dark."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from services.allocator import dashboard

SHEET = (Path(dashboard.__file__).parent / "static" / "page.css").read_text(encoding="utf-8")
SURFACES = ("ground", "card")
TEXT = ("ink", "quiet", "link", "near", "full")
"""Colours that words are written in, on either surface: 4.5 to 1 at least (1.4.3)."""
GRAPHICS = ("used", "held", "near", "full", "ok", "quiet")
"""Colours of bars, dots and edges of inputs, on either surface: 3 to 1 at least (1.4.11)."""
TEXT_CONTRAST, GRAPHIC_CONTRAST = 4.5, 3.0


def palettes() -> dict[str, dict[str, str]]:
    """The named colours of both schemes; dark replaces what it names."""
    blocks = re.findall(r":root\s*\{(.*?)\}", SHEET, re.DOTALL)
    assert len(blocks) == 2
    light, dark = (dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", block)) for block in blocks)
    return {"light": light, "dark": light | dark}


def luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour, as WCAG defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrasts_are_computed_as_wcag_does() -> None:
    """Its own extremes, and a pair whose contrast is well known."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_bars_stand_out(scheme: str) -> None:
    """Text at AA everywhere it is written, graphics against what they lie on, a bar against its own track."""
    colours = palettes()[scheme]
    wanted = [(one, on, TEXT_CONTRAST) for one, on in itertools.product(TEXT, SURFACES)]
    wanted += [(one, on, GRAPHIC_CONTRAST) for one, on in itertools.product(GRAPHICS, SURFACES)]
    wanted += [(one, "track", GRAPHIC_CONTRAST) for one in ("used", "held", "near", "full", "quiet")]
    wanted += [("on-used", "used", TEXT_CONTRAST), ("ink", "track", TEXT_CONTRAST)]
    found = {(one, on): contrast(colours[one], colours[on]) for one, on, _ in wanted}
    assert {pair: found[pair] for *pair_, least in wanted if found[pair := (pair_[0], pair_[1])] < least} == {}


def test_every_colour_has_a_name() -> None:
    """What is not in the palette would be in no contrast above; a colour of light alone would stay in the dark."""
    rest = re.sub(r":root\s*\{.*?\}", "", SHEET, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-f]{3,8}\b(?![^{]*\{)", rest) == []
    light, dark = re.findall(r":root\s*\{(.*?)\}", SHEET, re.DOTALL)
    names = [set(re.findall(r"--([\w-]+):", block)) for block in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\(--([\w-]+)\)", rest)) <= names[0]
