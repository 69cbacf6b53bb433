"""The folder of an archive: one writer at a time, files that are there whole or not at all and that nothing overwrites."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Folder:
    """Files under one path, by their names."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one on this machine who writes here; `kill -9` lets go of it too.

        Raises:
            OSError: another process writes here, or the folder cannot be made.
        """
        self._path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(f"another archive writes to {self._path}: run this again when it has ended") from None
            yield
        finally:
            os.close(handle)

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None where there is none.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file through a draft of its own name, flush it, and read it back.

        Raises:
            OSError: it cannot be written; no draft is left.
            ValueError: it does not read back as it was written.
        """
        path = self._path / name
        new = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        for place in (path.parent, *([path.parent.parent] if new else [])):
            _sync(place)
        if path.read_bytes() != data:
            raise ValueError(f"{path} does not read back as it was written")

    def __str__(self) -> str:
        return str(self._path)


def _sync(folder: Path) -> None:
    """Have the disk keep what a folder lists."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
