"""A command on a pseudo-terminal of a given size, and the screen that it drew."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.paths import ROOT

WAIT_S = 30.0
"""Longest wait for what a command shall draw, on busy cores."""
FRAME = "\x1b[H"
"""What every frame begins with."""
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """The terminal's side that a person sees."""

    def __init__(self, handle: int, process: subprocess.Popen[bytes]) -> None:
        self._handle = handle
        self.process = process
        self.raw = ""
        """All that was written, escape sequences included."""

    @property
    def frame(self) -> list[str]:
        """The last frame that is complete, as lines without escape sequences."""
        whole = [part for part in self.raw.split(FRAME)[1:] if "\x1b[J" in part]
        return _MOVES.sub("", whole[-1].partition("\x1b[J")[0]).split("\r\n") if whole else []

    @property
    def has_styles(self) -> bool:
        """Whether anything was coloured or made bold."""
        return _STYLE.search(self.raw) is not None

    def until(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """Read until a frame looks like this; return it."""
        give_up = time.monotonic() + WAIT_S
        while not seen(self.frame):
            assert time.monotonic() < give_up, self.raw[-2000:]
            self._read(1.0)
        return self.frame

    def shows(self, text: str) -> list[str]:
        """Read until a frame has this text; return it."""
        return self.until(lambda lines: any(text in line for line in lines))

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._handle, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Change the size, as dragging a window does."""
        fcntl.ioctl(self._handle, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> int:
        """Read to the end; return the exit code."""
        while self._read(WAIT_S):
            pass
        return self.process.wait(WAIT_S)

    def modes(self) -> list[object]:
        """The settings of the terminal."""
        return termios.tcgetattr(self._handle)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._handle], [], [], seconds)[0]:
            return False
        try:
            found = os.read(self._handle, 65536)
        except OSError:  # so Linux says that nobody holds the other side any more
            return False
        self.raw += found.decode(errors="replace")
        return bool(found)


@contextmanager
def on_a_terminal(
    words: Sequence[str], columns: int = 80, rows: int = 24, env: Mapping[str, str] | None = None
) -> Iterator[Screen]:
    """Run the command on a terminal of its own; it is killed if the block leaves it running."""
    here, there = pty.openpty()
    variables = {**os.environ, "TERM": "xterm", **(env or {})}
    for name in ("COLUMNS", "LINES"):
        variables.pop(name, None)
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    command = [sys.executable, "-m", "rollout_budget.cli", *words]
    process = subprocess.Popen(
        command, stdin=there, stdout=there, stderr=there, cwd=ROOT, env=variables, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one system call, so that Ctrl-C reaches it
    )  # fmt: skip
    os.close(there)
    try:
        yield Screen(here, process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(here)
