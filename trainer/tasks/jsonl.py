"""Any file of JSON lines with a prompt and an answer each.

Lines are read once, when the task is built, so that a bad one stops a run before it starts and names its line. A prompt
that occurs twice with the same answer is kept once (public sets have such); with another answer it is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rollout_budget.wire import MAX_PROMPT_CHARS
from trainer.errors import ConfigError
from trainer.types import Problem

MAX_KEY_CHARS = 200
"""Longest key that the allocator takes."""


@dataclass(frozen=True)
class Jsonl:
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
        if not 0.0 <= self.held_out_share < 1.0:
            raise ConfigError(f"task.jsonl.held_out_share: {self.held_out_share} must lie in [0, 1)")
        if not self.train():
            raise ConfigError(f"task.jsonl.path: {self.path} leaves no problem to train on")

    def train(self) -> Sequence[Problem]:
        """Return the training pool, in the order of the file."""
        return self._sets[0]

    def held_out(self) -> Sequence[Problem]:
        """Return the held-out problems, in the order of their file."""
        return self._sets[1]

    @cached_property
    def _sets(self) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
        problems = self._read(self.path)
        if self.held_out_path is not None:
            held_out = self._read(self.held_out_path)
            seen = {problem.prompt for problem in held_out} | {problem.key for problem in held_out}
            return tuple(item for item in problems if not {item.prompt, item.key} & seen), held_out
        held = {item.key for item in problems if _fraction(item.key) < self.held_out_share}
        return (
            tuple(item for item in problems if item.key not in held),
            tuple(item for item in problems if item.key in held),
        )

    def _read(self, path: str) -> tuple[Problem, ...]:
        found: dict[str, Problem] = {}
        for where, problem in self._lines(Path(path)):
            first = found.setdefault(problem.key, problem)
            if (first.prompt, first.answer) != (problem.prompt, problem.answer):
                raise ConfigError(f"{where}: key {problem.key!r} occurred before with another prompt or answer")
        return tuple(found.values())

    def _lines(self, path: Path) -> Iterator[tuple[str, Problem]]:
        try:
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        where = f"{path} line {number}"
                        yield where, self._problem(line, where)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"task.jsonl.path: cannot read {path}: {error}") from error

    def _problem(self, line: str, where: str) -> Problem:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: expected an object, found {type(row).__name__}")
        prompt = _text(row, self.prompt_field, where)
        if len(prompt) > MAX_PROMPT_CHARS:
            raise ConfigError(f"{where}: the prompt has {len(prompt)} characters, at most {MAX_PROMPT_CHARS} fit")
        key = _digest(prompt)[:32] if self.key_field is None else _text(row, self.key_field, where)
        if len(key) > MAX_KEY_CHARS or not key.isprintable():
            raise ConfigError(f"{where}: the key must be printable and at most {MAX_KEY_CHARS} characters long")
        return Problem(
            key=key, prompt=prompt, answer=_text(row, self.answer_field, where), level=self._level(row, where)
        )

    def _level(self, row: dict[str, Any], where: str) -> int:
        if self.level_field is None:
            return 0
        level = row.get(self.level_field)
        if isinstance(level, bool) or not isinstance(level, int):
            raise ConfigError(f"{where}: field {self.level_field!r} must be a whole number, found {level!r}")
        return level


def _text(row: dict[str, Any], name: str, where: str) -> str:
    """Return a field as text: a non-empty string, or a number as JSON writes it."""
    if name not in row:
        raise ConfigError(f"{where}: no field {name!r}, only {', '.join(map(repr, row))}")
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise ConfigError(f"{where}: field {name!r} must be text or a number, found {value!r}")
    return str(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fraction(key: str) -> float:
    """Map a key to [0, 1), the same on every machine."""
    return int(_digest(key)[:13], 16) / 16**13
