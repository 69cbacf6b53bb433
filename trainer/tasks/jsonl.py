"""Any file of JSON lines with a prompt and an answer each.

Lines are read once, when the task is built, so that a bad one stops a run before it starts and names its line. A prompt
that occurs twice with the same answer is kept once (public sets have such); with another answer it is an error. Empty and
enormous prompts are left out and counted (`trainer.tasks.rows`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trainer.errors import ConfigError
from trainer.tasks.rows import Columns, Row, RowReader, RowTask, Sets, split, without


@dataclass(frozen=True)
class Jsonl(RowTask):
    """The task. Held-out problems come from a file of their own, or are a share of the lines chosen by their key.

    The choice by key hashes each key alone, so that adding or reordering lines never moves a problem between the sets.

    Attributes:
        path: the file of training problems.
        prompt_field, answer_field: names of the required fields; an answer may be text or a number.
        key_field: name of a field with a stable id; without it the key is a hash of the prompt.
        level_field: name of a field with a whole-number difficulty.
        held_out_path: file of held-out problems; a training line with the same prompt is left out.
        held_out_share: share of the lines held out where `held_out_path` is not given, in [0, 1).
    """

    path: str
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    key_field: str | None = None
    level_field: str | None = None
    held_out_path: str | None = None
    held_out_share: float = 0.1
    name: str = field(default="jsonl", init=False)

    def __post_init__(self) -> None:
        self.require_usable(f"path: {self.path}", "no lines")

    @cached_property
    def _sets(self) -> Sets:
        reader = RowReader(Columns(self.prompt_field, self.answer_field, self.key_field, self.level_field))
        problems = reader.read(_rows(Path(self.path)))
        if self.held_out_path is None:
            return *split(problems, self.held_out_share), reader.left_out
        held_out = reader.read(_rows(Path(self.held_out_path)))
        return without(problems, held_out), held_out, reader.left_out


def _rows(path: Path) -> Iterator[Row]:
    """Yield each line of a file as an object, with its place.

    Raises:
        ConfigError: the file cannot be read, or a line is no object.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    where = f"{path} line {number}"
                    yield where, _object(line, where)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"task.jsonl.path: cannot read {path}: {error}") from error


def _object(line: str, where: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: expected an object, found {type(row).__name__}")
    return row
