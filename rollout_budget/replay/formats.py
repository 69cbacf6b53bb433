"""Reads rollout logs: TRL's tables of completions, verl's rollout dumps, slime's debug data, and plain JSON lines.

    JSON lines   {"group": ..., "prompt_key": ..., "version": ..., "outcome": ...} a rollout, or "outcomes": [...] a group
    verl         `trainer.rollout_data_dir`: {step}.jsonl of input, output, score, step, the reward's extra fields, uid
    TRL          `log_completions`: completions_{step}.parquet of step, prompt, completion, one column a reward function
    slime        `--save-debug-rollout-data`: {rollout}.pt of samples with group_index, prompt, reward

TRL and older verl log no id of a group. There a group is the rollouts of one step with the same prompt, in the order of
the file, `group_size` at a time where that is given.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

from rollout_budget.errors import InvalidInput
from rollout_budget.replay.records import LoggedGroup

Format = Literal["jsonl", "verl", "trl", "slime"]
FORMATS: tuple[Format, ...] = ("jsonl", "verl", "trl", "slime")
SUFFIXES = (".jsonl", ".parquet", ".pt")
GIVEN = ("step", "prompt", "completion", "advantage")
"""Columns of TRL's table that are no reward."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A logged rollout; `group` is None where the log has no id of it."""

    group: str | None
    prompt: str
    version: int
    outcome: float


def read_logs(
    path: Path, *, form: Format | None = None, outcome: str | None = None, group_size: int | None = None
) -> tuple[list[LoggedGroup], dict[str, str]]:
    """Return the groups of a file or of all logs in a folder, by version, and how they were read.

    Args:
        path: a file, or a folder of files of one kind.
        form: what wrote it; recognised by its fields when None.
        outcome: field or column that is the verifiable outcome: by default `acc` or `score` for verl, the only reward
            function for TRL, `reward` for slime, `outcome` else.
        group_size: rollouts of a group, where the log names no groups.

    Raises:
        InvalidInput: there is nothing to read, or something in it cannot be read; names the file and the line.
    """
    files = _files(path)
    found = form or _recognised(files[0])
    rollouts: list[Rollout] = []
    groups: list[LoggedGroup] = []
    field = outcome
    for file in files:
        if found == "trl":
            table, field = _trl(file, outcome)
            rollouts += table
        elif found == "slime":
            rollouts += _slime(file, outcome or "reward")
        else:
            some, whole = _lines(file, found, outcome)
            rollouts += some
            groups += whole
    groups += _grouped(rollouts, group_size)
    if not groups:
        raise InvalidInput(f"{path}: no rollout in it")
    how = {"format": found, "files": str(len(files)), "outcome": field or _usual(found)}
    return sorted(groups, key=lambda group: group.version), how


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted((file for file in path.rglob("*") if file.suffix in SUFFIXES), key=_order) if path.is_dir() else []
    if not files:
        raise InvalidInput(f"{path}: no log there; expected a file or a folder with {', '.join(SUFFIXES)}")
    return files


def _order(file: Path) -> tuple[int, str]:
    """Order 2.jsonl before 10.jsonl."""
    digits = "".join(char for char in file.stem if char.isdigit())
    return int(digits or 0), file.name


def _recognised(file: Path) -> Format:
    if file.suffix in (".parquet", ".pt"):
        return "trl" if file.suffix == ".parquet" else "slime"
    first = next(_objects(file), (0, {}))[1]
    return "verl" if {"input", "output"} <= first.keys() else "jsonl"


def _usual(form: Format) -> str:
    return {"jsonl": "outcome", "verl": "acc, else score", "trl": "the only reward function", "slime": "reward"}[form]


def _objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if not isinstance(value, dict):
                raise InvalidInput(f"{file}:{number}: no JSON object")
            yield number, value


def _lines(file: Path, form: Format, outcome: str | None) -> tuple[list[Rollout], list[LoggedGroup]]:
    rollouts, groups = [], []
    for number, line in _objects(file):
        try:
            if form == "verl":
                rollouts.append(_verl(line, outcome))
            elif "outcomes" in line:
                outcomes = tuple(float(one) for one in line["outcomes"])
                groups.append(LoggedGroup(str(line["group"]), _key(line), int(line.get("version", 0)), outcomes))
            else:
                value = float(line[outcome or "outcome"])
                rollouts.append(Rollout(str(line["group"]), _key(line), int(line.get("version", 0)), value))
        except KeyError as error:
            raise InvalidInput(f"{file}:{number}: no field {error}; it has {', '.join(sorted(line))}") from None
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{file}:{number}: {error}") from None
    return rollouts, groups


def _verl(line: Mapping[str, Any], outcome: str | None) -> Rollout:
    chosen = outcome or ("acc" if line.get("acc") is not None else "score")
    uid = line.get("uid")
    group = None if uid is None else str(uid).partition("_")[0]  # {uid}_{session}_{index} in its new trainer
    return Rollout(group, _key({"prompt_key": line["input"]}), int(line.get("step", 0)), float(line[chosen]))


def _trl(file: Path, outcome: str | None) -> tuple[list[Rollout], str]:
    try:
        from pyarrow import parquet  # noqa: PLC0415  only for these logs
    except ImportError:
        raise InvalidInput(f"{file}: parquet needs pyarrow: pip install 'rollout-budget[replay]'") from None
    try:
        table = parquet.read_table(file)
    except ValueError as error:
        raise InvalidInput(f"{file}: no parquet that can be read: {error}") from None
    numbers = [
        name for name in table.column_names if name not in GIVEN and str(table.schema.field(name).type) in _FLOATS
    ]
    if outcome is None and len(numbers) != 1:
        raise InvalidInput(f"{file}: name the outcome, one of the columns {', '.join(numbers) or '(none)'}")
    chosen = outcome or numbers[0]
    if chosen not in table.column_names:
        raise InvalidInput(f"{file}: no column {chosen!r}; there are {', '.join(numbers)}")
    rows = table.select(["step", "prompt", chosen]).to_pylist()
    return [
        Rollout(None, _key({"prompt_key": row["prompt"]}), int(row["step"]), float(row[chosen]))
        for row in rows
        if row[chosen] is not None
    ], chosen


_FLOATS = ("double", "float", "halffloat", "int64", "int32")


def _slime(file: Path, outcome: str) -> list[Rollout]:
    try:
        import torch  # noqa: PLC0415  only for these logs
    except ImportError:
        raise InvalidInput(f"{file}: slime's debug data needs torch to be read") from None
    try:
        data = torch.load(file, map_location="cpu", weights_only=True)
        samples: Sequence[Mapping[str, Any]] = data["samples"]
    except (RuntimeError, EOFError, UnpicklingError, KeyError, TypeError) as error:
        raise InvalidInput(f"{file}: no debug data of slime that can be read: {error}") from None
    version = int(data.get("rollout_id", 0))
    found = []
    for sample in samples:
        reward = sample[outcome]
        value: Any = reward.get("acc", reward.get("score")) if isinstance(reward, dict) else reward
        group = f"{version}-{sample['group_index']}"
        found.append(Rollout(group, _key({"prompt_key": sample["prompt"]}), version, float(value)))
    return found


def _key(line: Mapping[str, Any]) -> str:
    """Return what names a prompt: as it is where it is short, else a hash of it."""
    value = line["prompt_key"]
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 64 and text.isprintable() else hashlib.sha256(text.encode()).hexdigest()[:32]


def _grouped(rollouts: Iterable[Rollout], group_size: int | None) -> list[LoggedGroup]:
    named: defaultdict[tuple[int, str, str], list[float]] = defaultdict(list)
    for one in rollouts:
        name = one.group if one.group is not None else f"step{one.version}-{one.prompt}"
        named[one.version, name, one.prompt].append(one.outcome)
    groups = []
    for (version, name, prompt), outcomes in named.items():
        size = group_size or len(outcomes)
        for part, first in enumerate(range(0, len(outcomes), size)):
            label = name if len(outcomes) <= size else f"{name}-{part}"
            groups.append(LoggedGroup(label, prompt, version, tuple(outcomes[first : first + size])))
    return groups
