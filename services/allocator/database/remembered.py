"""What this process has parsed or written a moment ago, found by its own text: to parse is what reading costs most.

The key is the text that a row holds now, read in the same transaction, so nothing stale can be found, whichever process
wrote the row; a text that was never committed is never asked for. Values are not changed by anyone who holds them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """A bounded memory; the text that was kept first is forgotten first.

    Args:
        parse: makes a value of a text that is not known.
        most_chars: characters of all texts kept, at most; a value takes some five times as many bytes as its text.
    """

    def __init__(self, parse: Callable[[str], Value], most_chars: int) -> None:
        self._parse = parse
        self._most_chars = most_chars
        self._chars = 0
        self._known: OrderedDict[str, Value] = OrderedDict()

    def read(self, text: str) -> Value:
        """Return what a text says."""
        value = self._known.get(text)
        return self.keep(text, self._parse(text)) if value is None else value

    def keep(self, text: str, value: Value) -> Value:
        """Remember that `text` says `value`; return that."""
        if text not in self._known:
            self._known[text] = value
            self._chars += len(text)
            while self._chars > self._most_chars:
                self._chars -= len(self._known.popitem(last=False)[0])
        return value
