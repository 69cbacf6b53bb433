"""A terminal that is drawn on anew again and again, and signals that only wake a waiting loop.

Plain escape sequences, which every terminal of the last decades knows: no library. Whatever ends the block, the terminal is
as it was. Keys are read one by one where standard input is a terminal too.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Self

ENTER = "\x1b[?1049h\x1b[?25l"
"""The other screen, without a cursor: what stood on the terminal comes back afterwards."""
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME, END_OF_LINE, BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
STYLES: Mapping[str, str] = {"head": "\x1b[1m", "near": "\x1b[33m", "over": "\x1b[31m", "dim": "\x1b[2m"}
PLAIN = "\x1b[0m"
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WAKING = (signal.SIGWINCH, signal.SIGCHLD)
DEFAULT_SIZE = (80, 24)
"""Where the terminal does not say."""


def is_terminal() -> bool:
    """Whether standard output is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}


def has_colour() -> bool:
    """Whether colours are wanted (see no-color.org)."""
    return is_terminal() and not os.environ.get("NO_COLOR")


class Signals:
    """Signals as something to wait for, in the main thread, for `with`: they interrupt nothing.

    Attributes:
        stop: the first signal of `STOPPING` that came, None until then.
    """

    def __init__(self) -> None:
        self.stop: signal.Signals | None = None
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*STOPPING, *WAKING):
            self._old[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._read)
        os.close(self._write)

    def wait(self, seconds: float, *others: int) -> bool:
        """Wait for a signal, for something to read from another descriptor, or for so long; whether it was another."""
        if self.stop is not None:
            return False
        ready, _, _ = select.select([self._read, *others], [], [], max(seconds, 0.0))
        if self._read in ready:
            os.read(self._read, 4096)
        return any(one in ready for one in others)

    def _came(self, number: int, _frame: FrameType | None) -> None:
        if number in STOPPING and self.stop is None:
            self.stop = signal.Signals(number)


class Terminal:
    """The terminal of this process while it is drawn on, for `with`."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._colour = has_colour()
        self._keys = [sys.stdin.fileno()] if sys.stdin is not None and sys.stdin.isatty() else []

    def __enter__(self) -> Self:
        self._modes = [termios.tcgetattr(one) for one in self._keys]
        for one in self._keys:
            tty.setcbreak(one)  # keys at once and unseen; Ctrl-C stays a signal
        self._write(ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        for one, mode in zip(self._keys, self._modes, strict=True):
            termios.tcsetattr(one, termios.TCSADRAIN, mode)
        self._write(LEAVE)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, as they are now."""
        found = shutil.get_terminal_size(DEFAULT_SIZE)
        return found.columns, found.lines

    def draw(self, lines: Sequence[tuple[str, str]]) -> None:
        """Show these lines, each a style (a key of `STYLES` or empty) and a text, in place of what was there."""
        shown = [self._styled(style, text) + END_OF_LINE for style, text in lines]
        self._write(HOME + "\r\n".join(shown) + BELOW)

    def key(self, seconds: float) -> str:
        """Wait for a key, but no longer than this, and not beyond a signal; empty without one."""
        if self._signals.wait(seconds, *self._keys):
            pressed = os.read(self._keys[0], 64)
            if not pressed:
                self._keys.clear()  # its other end has gone
            return pressed.decode(errors="replace")
        return ""

    def _styled(self, style: str, text: str) -> str:
        return f"{STYLES[style]}{text}{PLAIN}" if style and self._colour else text

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
