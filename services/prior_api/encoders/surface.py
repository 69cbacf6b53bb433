"""What a text looks like, whatever it means: lengths, symbols, digits, scripts. Pure functions of the text, no model.

A sentence model sees what a problem is about and little of how long or how laden it is, which says much about how hard
it is. These numbers are put after a model's vector; a head that knows of them compares them by a metric of its own
(`heads/metric.py`), so their scales do not matter.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence

import numpy as np

from services.prior_api.encoders.base import Encoder
from services.prior_api.heads.base import Float32Array

LONGEST_NUMBER = 12
"""Digits of a number that count towards its size: what is longer is large all the same."""
FIRST_WIDE = "\u2e80"
"""From here on lie the scripts that write a word in one or two characters, Chinese and Japanese among them."""
CLASSES = tuple(
    re.compile(pattern)
    for pattern in (
        r"\\[A-Za-z]+",  # LaTeX commands
        r"\$",
        r"[=<>]",
        r"[+*/-]",
        r"\^",
        r"_",
        r"[(\[{]",
        r"[,;:，；：]",  # noqa: RUF001  full-width marks are meant
        r"[.!。！]",  # noqa: RUF001  as above
        r"[?？]",  # noqa: RUF001  as above
        r"\n",
    )
)
"""Kinds of marks that are counted."""
NUMBERS = 13 + len(CLASSES)
"""Numbers per text."""

_WORD, _NUMBER = re.compile(r"[A-Za-z]+"), re.compile(r"[0-9]+")


def describe(texts: Sequence[str]) -> Float32Array:
    """Return logarithms of counts and shares of characters, shape (len(texts), NUMBERS)."""
    return np.array([_describe(text) for text in texts], dtype=np.float32).reshape(len(texts), NUMBERS)


class Described:
    """An encoder whose vectors are followed by what the texts look like."""

    surface = NUMBERS

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.name, self.part = f"{encoder.name}+surface/1", encoder.part
        self.width, self.unit = encoder.width + NUMBERS, encoder.unit

    def load(self) -> None:
        """Load the encoder inside; it may raise what that one does."""
        self.encoder.load()

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Return shape (len(texts), width): the encoder's vectors, then `describe`."""
        return np.concatenate([self.encoder.encode(texts), describe(texts)], axis=1)


def _describe(text: str) -> list[float]:
    words, numbers, raw = _WORD.findall(text), _NUMBER.findall(text), text.encode(errors="replace")
    letters = sum(map(len, words))
    counts = [
        len(text),
        len(words),
        len({word.lower() for word in words}),
        letters / len(words) if words else 0.0,
        len(numbers),
        max(map(len, numbers), default=0),
        max((float(number[:LONGEST_NUMBER]) for number in numbers), default=0.0),
        len(set(CLASSES[0].findall(text))),
        *(len(kind.findall(text)) for kind in CLASSES),
    ]
    shares = [
        sum(character >= FIRST_WIDE for character in text),
        sum(map(str.isupper, text)),
        sum(map(str.isdigit, text)),
        sum(map(str.isspace, text)),
    ]
    packed = len(zlib.compress(raw)) / max(1, len(raw))
    return [*map(math.log1p, counts), *(share / max(1, len(text)) for share in shares), packed]
