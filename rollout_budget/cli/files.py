"""A new file for what is told only once: made, with room for it, before it is asked for.

A folder that cannot be written, a name that is taken and a full disk are found while nothing is lost yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rollout_budget.cli.parsing import Usage

ROOM_BYTES = 512
"""More than any token of ours."""


class NewFile:
    """A file that is there already, for its owner alone, and holds blanks; `name` is as the user wrote it."""

    def __init__(self, name: str, handle: int) -> None:
        self.name = name
        self._handle = handle

    def keep(self, text: str) -> None:
        """Write what is to be kept.

        Raises:
            OSError: it could not be written, and the file is gone.
        """
        try:
            os.lseek(self._handle, 0, os.SEEK_SET)
            _write(self._handle, text.encode())
            os.ftruncate(self._handle, len(text.encode()))
            os.fsync(self._handle)
        except OSError:
            Path(self.name).unlink(missing_ok=True)
            raise


@contextmanager
def new_file(name: str | None) -> Iterator[NewFile | None]:
    """Make a file, or nothing without a name; it goes again if the block raises.

    Raises:
        Usage: it cannot be made, or not be written.
    """
    if name is None:
        yield None
        return
    handle = _made(name)
    try:
        yield NewFile(name, handle)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _made(name: str) -> int:
    try:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Usage(f"--file {name} is there already; name a new file") from None
    except OSError as error:
        raise Usage(f"--file {name}: {error.strerror}") from None
    try:
        _write(handle, b"\n" * ROOM_BYTES)
        os.fsync(handle)
    except OSError as error:
        os.close(handle)
        Path(name).unlink(missing_ok=True)
        raise Usage(f"--file {name} cannot be written: {error.strerror}; nothing was asked for") from None
    return handle


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
