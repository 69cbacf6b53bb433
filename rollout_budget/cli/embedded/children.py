"""Child processes that cannot outlive this one.

Each runs under a keeper (`rollout_budget/keeper.py`), which ends it when this process closes a pipe or dies in any way. It
is in a session of its own, so Ctrl-C on the terminal reaches this process alone, which then ends its children in order.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rollout_budget import keeper
from rollout_budget.cli.parsing import Failed

GRACE_S = 10.0
"""From SIGTERM to SIGKILL: an embedded service drains within a second; a prior service may be in the middle of a fit."""
MARGIN_S = 5.0
"""How much longer than its grace to wait for a keeper."""
TAIL_BYTES = 4096
"""How much of a log is searched for its last line."""


class ChildFailed(Failed):
    """A child ended by itself, did not get ready, or cannot be started; one line says what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to start.

    Attributes:
        name: for people.
        command: words after the interpreter's own, such as `-m services.allocator serve`.
        log: what it prints, appended.
        env: set for it beside this process's own.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A program that was started."""

    def __init__(self, program: Program) -> None:
        self.program = program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = program.log.stat().st_size if program.log.exists() else 0
        with program.log.open("ab") as output:
            self._keeper = subprocess.Popen(  # noqa: S603 - our own programs
                [sys.executable, "-I", "-S", keeper.__file__, f"{GRACE_S:g}", sys.executable, *program.command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **program.env},
                start_new_session=True,
            )

    @property
    def status(self) -> int | None:
        """How it ended; None while it runs."""
        return self._keeper.poll()

    def ended(self) -> ChildFailed:
        """Return the error that says that it ended by itself, with the last line that it printed."""
        last = self._last_line()
        said = f": {last}" if last else ""
        return ChildFailed(
            f"the {self.program.name} ended with status {self._keeper.wait()}{said}; see {self.program.log}"
        )

    def ask_to_stop(self) -> None:
        """Begin its end; harmless if it has ended."""
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()

    def stop(self) -> None:
        """End it and everything it started, and wait for that."""
        self.ask_to_stop()
        try:
            self._keeper.wait(GRACE_S + MARGIN_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()

    def _last_line(self) -> str:
        with self.program.log.open("rb") as log:
            log.seek(max(self._log_start, self.program.log.stat().st_size - TAIL_BYTES))
            printed = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(printed) if line.strip()), "")
