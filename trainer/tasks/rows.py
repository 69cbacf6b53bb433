"""Rows of a data set made into problems, whatever file they come from.

Owns which rows are an error (they stop a run before it starts, and are named) and which are left out with a count: an
empty prompt or answer, a prompt longer than the services take, half of a surrogate pair. Public sets have such rows; a run should not end for them.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollout_budget.wire import MAX_PROMPT_CHARS
from trainer.errors import ConfigError
from trainer.types import Problem

MAX_KEY_CHARS = 200
"""Longest key that the allocator takes."""
EMPTY_PROMPT, EMPTY_ANSWER = "empty prompt", "empty answer"
LONG_PROMPT = f"prompt of more than {MAX_PROMPT_CHARS:,} characters"
NOT_TEXT = "half of a surrogate pair, which is no text"
CONFLICT = "prompt seen before with another answer"

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, for messages, and its fields."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the fields; a dot leads into a nested one (`reward_model.ground_truth`)."""

    prompt: str = "prompt"
    answer: str = "answer"
    key: str | None = None
    level: str | None = None


@dataclass(slots=True)
class RowReader:
    """Makes problems of rows, and counts what it leaves out.

    Attributes:
        columns: where prompt, answer, key and level stand.
        prompt_of, answer_of: make the final text of what the field holds (a template, an answer within a solution).
        level_of: makes a whole number of what the level field holds, or raises ValueError.
        strict: a prompt that occurs again with another answer is an error; else it is left out.
        left_out: rows left out so far, by reason.
    """

    columns: Columns
    prompt_of: Callable[[str], str] = str
    answer_of: Callable[[str], str] = str
    level_of: Callable[[Any], int] | None = None
    strict: bool = True
    left_out: Counter[str] = field(default_factory=Counter)

    def read(self, rows: Iterable[Row]) -> tuple[Problem, ...]:
        """Return a problem for each usable row, in order; one that occurs twice alike is kept once.

        Raises:
            ConfigError: a row without a field that is needed, or with one of the wrong kind.
        """
        found: dict[str, Problem] = {}
        for where, row in rows:
            problem = self._problem(where, row)
            if problem is None:
                continue
            first = found.setdefault(problem.key, problem)
            if (first.prompt, first.answer) == (problem.prompt, problem.answer):
                continue
            if self.strict:
                raise ConfigError(f"{where}: key {problem.key!r} occurred before with another prompt or answer")
            self.left_out[CONFLICT] += 1
        return tuple(found.values())

    def _problem(self, where: str, row: Mapping[str, Any]) -> Problem | None:
        asked = text_of(row, self.columns.prompt, where)
        answer = self.answer_of(text_of(row, self.columns.answer, where)).strip()
        prompt = self.prompt_of(asked) if asked.strip() else ""
        reason = _unusable(prompt, answer)
        if reason is not None:
            self.left_out[reason] += 1
            return None
        key = digest(prompt)[:32] if self.columns.key is None else text_of(row, self.columns.key, where)
        if not key or len(key) > MAX_KEY_CHARS or not key.isprintable():
            raise ConfigError(f"{where}: the key must be printable and 1 to {MAX_KEY_CHARS} characters long")
        return Problem(key=key, prompt=prompt, answer=answer, level=self._level(where, row))

    def _level(self, where: str, row: Mapping[str, Any]) -> int:
        if self.columns.level is None:
            return 0
        level = value_of(row, self.columns.level, where)
        if self.level_of is not None:
            level = self.level_of(level)
        if isinstance(level, bool) or not isinstance(level, int):
            raise ConfigError(f"{where}: field {self.columns.level!r} must be a whole number, found {level!r}")
        return level


Sets = tuple[tuple[Problem, ...], tuple[Problem, ...], Counter[str]]
"""Training problems, held-out ones, and what was left out of both."""


class RowTask(ABC):
    """A task whose problems are rows: two sets, read once, in the order of their source."""

    name: str
    held_out_share: float

    @property
    @abstractmethod
    def _sets(self) -> Sets: ...

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many rows were left out for which reason, held-out ones included."""
        return dict(self._sets[2])

    def train(self) -> Sequence[Problem]:
        """Return the training pool, in the order of its source."""
        return self._sets[0]

    def held_out(self) -> Sequence[Problem]:
        """Return the held-out problems, in the order of their source."""
        return self._sets[1]

    def require_usable(self, source: str, nothing: str) -> None:
        """Check that the share is one and that something is left to train on.

        Args:
            source: the option that names the rows, with its value.
            nothing: why nothing is left where no row was left out.

        Raises:
            ConfigError: it is not.
        """
        if not 0.0 <= self.held_out_share < 1.0:
            raise ConfigError(f"task.{self.name}.held_out_share: {self.held_out_share} must lie in [0, 1)")
        if not self.train():
            why = said(self.left_out) or nothing
            raise ConfigError(f"task.{self.name}.{source} leaves no problem to train on ({why})")


def value_of(row: Mapping[str, Any], name: str, where: str) -> Any:
    """Return a field, following dots.

    Raises:
        ConfigError: there is no such field.
    """
    value: Any = row
    for part in [name] if name in row else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"{where}: no field {name!r}, only {', '.join(map(repr, row))}")
        value = value[part]
    return value


def text_of(row: Mapping[str, Any], name: str, where: str) -> str:
    """Return a field as text: a string, or a number as JSON writes it.

    Raises:
        ConfigError: there is no such field, or it holds something else.
    """
    value = value_of(row, name, where)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"{where}: field {name!r} must be text or a number, found {value!r}")
    return str(value)


def split(problems: Sequence[Problem], share: float) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Return training and held-out problems; each key's hash alone decides, so that no other row can move it."""
    held = {item.key for item in problems if fraction(item.key) < share}
    return (
        tuple(item for item in problems if item.key not in held),
        tuple(item for item in problems if item.key in held),
    )


def without(problems: Sequence[Problem], held_out: Sequence[Problem]) -> tuple[Problem, ...]:
    """Return the problems whose prompt and key are not among the held-out ones."""
    seen = {problem.prompt for problem in held_out} | {problem.key for problem in held_out}
    return tuple(item for item in problems if not {item.prompt, item.key} & seen)


def said(left_out: Mapping[str, int]) -> str:
    """Return what was left out in a few words, the commonest reason first; empty where nothing was."""
    counts = sorted(left_out.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} with {reason}" for reason, count in counts)


def digest(text: str) -> str:
    """Return a hash that is the same on every machine."""
    return hashlib.sha256(text.encode()).hexdigest()


def fraction(key: str) -> float:
    """Map a key to [0, 1), the same on every machine."""
    return int(digest(key)[:13], 16) / 16**13


def _unusable(prompt: str, answer: str) -> str | None:
    if not prompt.strip():
        return EMPTY_PROMPT
    if not answer:
        return EMPTY_ANSWER
    if len(prompt) > MAX_PROMPT_CHARS:
        return LONG_PROMPT
    try:
        (prompt + answer).encode()
    except UnicodeEncodeError:
        return NOT_TEXT
    return None
