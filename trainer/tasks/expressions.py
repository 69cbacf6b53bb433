"""Whole-number expressions with `+`, `-`, `*` and brackets, read and computed without `eval`.

Owns the grammar and its bounds; knows nothing of tasks. What a policy under training writes is hostile by chance, so the
length is bounded before anything is read: the deepest nesting and the largest product follow from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARS = 64
"""Longest expression that is read: eight times the longest answer of a generated task."""

_TOKEN = re.compile(r"\d+|[-+*()]", re.ASCII)


class NotAnExpression(ValueError):
    """The text is no expression of the grammar."""


@dataclass(frozen=True, slots=True)
class Value:
    """What an expression comes to, and the numbers it was written with, in order."""

    value: int
    numbers: tuple[int, ...]


def evaluate(text: str) -> Value:
    """Compute an expression: products before sums, left to right, a sign only between operands.

    Raises:
        NotAnExpression: anything else, longer than `MAX_CHARS` included.
    """
    if len(text) > MAX_CHARS:
        raise NotAnExpression(f"more than {MAX_CHARS} characters")
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text.replace(" ", ""):
        raise NotAnExpression("a character that no expression has")
    reader = _Reader(tokens)
    value = reader.sum()
    if reader.place != len(tokens):
        raise NotAnExpression("something follows the expression")
    return Value(value, tuple(reader.numbers))


class _Reader:
    """One pass over the tokens by recursive descent."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.place = 0
        self.numbers: list[int] = []

    def sum(self) -> int:
        value = self._product()
        while (sign := self._take("+-")) is not None:
            value = value + self._product() if sign == "+" else value - self._product()
        return value

    def _product(self) -> int:
        value = self._operand()
        while self._take("*") is not None:
            value *= self._operand()
        return value

    def _operand(self) -> int:
        if self._take("(") is not None:
            value = self.sum()
            if self._take(")") is None:
                raise NotAnExpression("a bracket is not closed")
            return value
        if self.place == len(self.tokens) or not self.tokens[self.place].isdigit():
            raise NotAnExpression("an operand is missing")
        number = int(self.tokens[self.place])
        self.place += 1
        self.numbers.append(number)
        return number

    def _take(self, wanted: str) -> str | None:
        """Return the next token and step over it, if it is one of these characters."""
        if self.place < len(self.tokens) and self.tokens[self.place] in wanted:
            self.place += 1
            return self.tokens[self.place - 1]
        return None
