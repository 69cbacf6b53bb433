"""How far a long computation is: one line rewritten on a terminal, a line now and then elsewhere. Says nothing else."""

from __future__ import annotations

import time
from typing import TextIO

TERMINAL_EVERY_S = 0.2
LINE_EVERY_S = 15.0
"""A log of ten minutes holds forty lines."""


class Progress:
    """Counts towards `total` items of one kind.

    Args:
        stream: where to write.
        what: the computation, e.g. "encoding".
        unit: what is counted, e.g. "prompts".
    """

    def __init__(self, stream: TextIO, what: str, unit: str, total: int) -> None:
        self._stream, self._what, self._unit, self._total = stream, what, unit, total
        self._terminal = stream.isatty()
        self._began = self._shown = time.monotonic()
        self._done = 0

    def add(self, count: int = 1) -> None:
        """Count items; the last one ends the line."""
        self._done += count
        now = time.monotonic()
        ended = self._done >= self._total
        if ended or now - self._shown >= (TERMINAL_EVERY_S if self._terminal else LINE_EVERY_S):
            self._shown = now
            line = self._line(now - self._began)
            self._stream.write(f"\r\x1b[K{line}" + "\n" * ended if self._terminal else f"{line}\n")
            self._stream.flush()

    def _line(self, elapsed_s: float) -> str:
        rate = self._done / max(elapsed_s, 1e-9)
        left_s = (self._total - self._done) / rate
        end = f"took {elapsed_s:.0f} s" if self._done >= self._total else f"about {left_s:.0f} s left"
        return f"{self._what}: {self._done} of {self._total} {self._unit}, {rate:.3g} a second, {end}"
