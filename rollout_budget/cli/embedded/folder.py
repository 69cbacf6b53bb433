"""The data folder of `up`: one process at a time, which leaves word there of where its services are."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from rollout_budget.cli.events import Ready
from rollout_budget.cli.parsing import Usage


class Folder:
    """A data folder that this process holds."""

    def __init__(self, path: Path, word: int) -> None:
        self.path = path
        self._word = word

    def tell(self, ready: Ready) -> None:
        """Leave word of where everything is, for as long as this process lives."""
        os.ftruncate(self._word, 0)
        os.pwrite(self._word, ready.model_dump_json().encode(), 0)


@contextmanager
def held(path: Path) -> Iterator[Folder]:
    """Hold a folder, which is made if it is not there; let go even of a process that was killed.

    Raises:
        Usage: another process has it, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        word = os.open(_file(path), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Usage(f"--data {path}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(word, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Usage(_taken(path)) from None
        os.ftruncate(word, 0)
        yield Folder(path.resolve(), word)
        os.ftruncate(word, 0)
    finally:
        os.close(word)


def word_of(path: Path) -> Ready | None:
    """Return where the services of a folder are, None where nobody serves from it or they are not ready."""
    try:
        with _file(path).open("rb") as word:
            try:
                fcntl.flock(word, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return Ready.model_validate_json(word.read())
    except (OSError, ValidationError):
        return None
    return None


def _taken(path: Path) -> str:
    ready = word_of(path)
    if ready is None:
        return f"another `rollout-budget up` is starting from {path}; wait for it, or choose another folder with --data"
    return (
        f"another `rollout-budget up` (process {ready.pid}) serves from {path}, allocator at {ready.allocator_url}; look at "
        f"it with `rollout-budget top --url {ready.allocator_url} --key-file {ready.admin_key_file}`, or choose another "
        "folder with --data"
    )


def _file(path: Path) -> Path:
    return path / "up.lock"
