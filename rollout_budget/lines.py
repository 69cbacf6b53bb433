"""Append-only files of JSON lines: what a process that may be killed at any moment writes down.

A line counts once its end is there. An unfinished last line is one whose writer was killed: it never happened, and is
taken out before anything is appended.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[bytes]:
    """Return the finished lines of a file, none where there is no file; what was not finished is taken out of it."""
    if not path.is_file():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        with path.open("r+b") as file:
            file.truncate(sum(len(line) + 1 for line in lines))
    return lines


def append_line(path: Path, item: Any, *, durably: bool = False) -> None:
    """Add a line to a file, which is made where it is not there yet.

    Args:
        path: the file; its folder exists.
        item: anything JSON can hold, numbers that are none (NaN) included.
        durably: return only once the disk has it and all lines before; else a killed process loses nothing, but a
            machine that loses power may.
    """
    with path.open("ab") as file:
        file.write(json.dumps(item).encode() + b"\n")
        if durably:
            file.flush()
            os.fsync(file.fileno())
