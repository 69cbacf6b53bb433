"""Outcomes of several policies at several versions, read from a folder in one of two formats.

Plain: `outcomes.jsonl`, one `{"policy", "version", "key", "successes", "trials"}` a line, and `prompts.jsonl`, one
`{"key", "text"}` a line. V0's: `context.jsonl`, one `{"model", "step", "dataset", "id", "score"}` a line with `score`
the mean of ten outcomes in {-1, +1}, and `prompts.json`, texts by `{dataset}_{id}`. Fields not named here are ignored.

Reads and checks; draws no splits and computes no scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from rollout_budget.outcomes import OutcomeRange
from rollout_budget.wire.common import MAX_PROMPT_CHARS, GroupSize, Identifier, NonNegative, Version, Wire
from services.kit.configuration import faults

V0_TRIALS = 10
"""Outcomes behind a score of V0's format."""
V0_SCORES = OutcomeRange(-1.0, 1.0)
ROUNDING = 1e-6
"""How far a score may lie from a tenth: its file holds decimals."""

Key = tuple[str, int]
"""Policy and version."""

T = TypeVar("T")


class DataError(ValueError):
    """A folder, a file or a row that cannot be used; the message names it with its line."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one prompt's rollouts under one policy and version came to; `successes` lie in [0, trials]."""

    policy: str
    version: int
    prompt: str
    successes: float
    trials: int

    @property
    def key(self) -> Key:
        """Policy and version."""
        return self.policy, self.version

    @property
    def rate(self) -> float:
        """Success rate, in [0, 1]."""
        return self.successes / self.trials


@dataclass(frozen=True, slots=True)
class Outcomes:
    """All rows by key, in order of policy and version, and the prompts' texts.

    A prompt stands at most once under each key, and two prompts of `rows` never have the same text.

    Attributes:
        notes: what was done to the folder's rows to get there, one sentence each.
    """

    rows: dict[Key, list[Row]]
    texts: dict[str, str]
    notes: tuple[str, ...] = field(default=())

    @property
    def prompts(self) -> list[str]:
        """Every prompt that a row speaks of, in order."""
        return sorted({row.prompt for rows in self.rows.values() for row in rows})

    @property
    def policies(self) -> list[str]:
        """Every policy, in order."""
        return sorted({policy for policy, _ in self.rows})


def text_hash(text: str) -> str:
    """Return the hash by which the service and the feature cache know a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def load(folder: Path) -> Outcomes:
    """Read a folder of either format.

    Raises:
        DataError: the folder or a file is not there, or a row is broken; one line.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    if (folder / "outcomes.jsonl").is_file():
        texts = dict(_lines(folder / "prompts.jsonl", _prompt))
        return _outcomes(_lines(folder / "outcomes.jsonl", _plain), texts)
    if (folder / "context.jsonl").is_file():
        texts = _read(folder / "prompts.json", TypeAdapter(dict[Identifier, Text]).validate_json)
        return _outcomes(_lines(folder / "context.jsonl", _v0), texts)
    raise DataError(f"{folder} holds neither outcomes.jsonl nor context.jsonl; see --help for what they contain")


Text = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]


class _Plain(Wire):
    policy: Identifier
    version: Version
    key: Identifier
    successes: NonNegative
    trials: GroupSize

    @model_validator(mode="after")
    def _possible(self) -> _Plain:
        if self.successes > self.trials:
            raise ValueError(f"{self.successes:g} successes in {self.trials} trials")
        return self


class _V0(Wire):
    model: Identifier
    step: Version
    dataset: str
    id: str | int
    score: Annotated[float, Field(ge=-1.0, le=1.0, allow_inf_nan=False, strict=True)]


class _Prompt(Wire):
    key: Identifier
    text: Text


def _plain(line: str) -> Row:
    raw = _Plain.model_validate_json(line)
    return Row(raw.policy, raw.version, raw.key, raw.successes, raw.trials)


def _v0(line: str) -> Row:
    raw = _V0.model_validate_json(line)
    successes = float(V0_SCORES.to_unit(raw.score)) * V0_TRIALS
    if abs(successes - round(successes)) > ROUNDING:
        raise ValueError(f"score {raw.score} is not the mean of {V0_TRIALS} outcomes in {{-1, +1}}")
    return Row(raw.model, raw.step, f"{raw.dataset}_{raw.id}", round(successes), V0_TRIALS)


def _prompt(line: str) -> tuple[str, str]:
    raw = _Prompt.model_validate_json(line)
    return raw.key, raw.text


def _lines(path: Path, parse: Callable[[str], T]) -> Iterator[T]:
    for number, line in enumerate(_read(path, lambda text: text.split("\n")), start=1):
        if line.strip():
            yield _parsed(parse, line, f"{path}, line {number}")


def _read(path: Path, parse: Callable[[str], T]) -> T:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"there is no {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return _parsed(parse, text, str(path))


def _parsed(parse: Callable[[str], T], text: str, place: str) -> T:
    try:
        return parse(text)
    except ValidationError as error:
        raise DataError(f"{place}: {faults(error)}") from error
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error


def _outcomes(rows: Iterable[Row], texts: dict[str, str]) -> Outcomes:
    """Bring rows into order: prompts with one text become one, and rows of one prompt under one key are added up."""
    first: dict[str, str] = {}
    names: dict[str, str] = {}
    cells: dict[tuple[str, int, str], tuple[float, int]] = {}
    repeated = 0
    for row in rows:
        if row.prompt not in names:
            names[row.prompt] = first.setdefault(texts.get(row.prompt, f"\x00{row.prompt}"), row.prompt)
        place = row.policy, row.version, names[row.prompt]
        repeated += place in cells
        successes, trials = cells.get(place, (0.0, 0))
        cells[place] = successes + row.successes, trials + row.trials
    if not cells:
        raise DataError("the folder holds no outcomes")
    ordered: dict[Key, list[Row]] = {key: [] for key in sorted({place[:2] for place in cells})}
    for place, (successes, trials) in cells.items():
        ordered[place[:2]].append(Row(*place, successes, trials))
    return Outcomes(ordered, texts, tuple(_notes(names, texts, repeated)))


def _notes(names: dict[str, str], texts: dict[str, str], repeated: int) -> Iterator[str]:
    alike = sum(name != key for key, name in names.items())
    textless = sum(key not in texts for key in names)
    if alike:
        yield f"{alike} prompts have the text of another and count as the same prompt."
    if repeated:
        yield f"{repeated} rows repeat a prompt under its policy and version and were added up."
    if textless:
        yield f"{textless} of {len(names)} prompts have no text: heads know them by their identity alone."


def facts(outcomes: Outcomes) -> dict[str, Any]:
    """Return how much there is, for reports."""
    rows = [row for rows in outcomes.rows.values() for row in rows]
    trials = sorted(row.trials for row in rows)
    return {
        "policies": len(outcomes.policies),
        "keys": len(outcomes.rows),
        "rows": len(rows),
        "prompts": len(outcomes.prompts),
        "trials_median": trials[len(trials) // 2],
    }
