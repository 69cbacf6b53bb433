"""Results of runs as JSON lines: appended as they come, read and merged from as many files as there are.

A result is known by its cell and the hash of its configuration. Of two with the same, the first that is read counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from benchmarks.learning.cells import Cell, Pool


class Measured(BaseModel):
    """Held-out accuracy after so many rollouts, sampled tokens, and seconds of drawing, learning and publishing."""

    model_config = ConfigDict(frozen=True)

    rollouts: int
    tokens: int
    seconds: float
    accuracy: float


class Step(BaseModel):
    """What is kept of a training step."""

    model_config = ConfigDict(frozen=True)

    rollouts: int
    groups: int
    accuracy: float | None
    grad_norm: float | None
    entropy: float | None
    clip_fraction: float | None
    prior_explained: float | None


class Result(BaseModel):
    """One run.

    Attributes:
        digest: hash of its configuration.
        code: commit that it ran on.
        seconds: on the clock, measurements included; by phase in `phases`.
    """

    model_config = ConfigDict(frozen=True)

    task: str
    pool: Pool
    method: str
    rate: float
    seed: int
    digest: str
    code: str
    machine: str
    rollouts: int
    tokens: int
    seconds: float
    phases: dict[str, float]
    curve: list[Measured]
    steps: list[Step]

    @property
    def cell(self) -> Cell:
        """Which run it was."""
        return Cell(self.task, self.pool, self.method, self.rate, self.seed)


def read(paths: Iterable[Path]) -> list[Result]:
    """Return the results of all files, each once; an unfinished last line of a file is left out."""
    found: dict[tuple[Cell, str], Result] = {}
    for path in paths:
        if path.is_file():
            for line in _whole_lines(path):
                result = Result.model_validate_json(line)
                found.setdefault((result.cell, result.digest), result)
    return list(found.values())


def current(results: Sequence[Result]) -> list[Result]:
    """Return those whose configuration is what it would be now."""
    return [result for result in results if result.digest == _digest(result.cell)]


def append(path: Path, result: Result) -> None:
    """Add a result to a file, in one write; a line that was cut short before is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as lines:
        if lines.tell() and not _ends_well(path):
            lines.write(b"\n")
        lines.write(json.dumps(result.model_dump(mode="json")).encode() + b"\n")


def merge(sources: Sequence[Path], target: Path) -> int:
    """Write the results of all sources into one new file; return how many there are."""
    results = read(sources)
    draft = target.with_name(f".{target.name}.draft")
    draft.write_text("".join(f"{result.model_dump_json()}\n" for result in results), encoding="utf-8")
    draft.replace(target)
    return len(results)


def _whole_lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        try:
            json.loads(line)
        except ValueError:
            continue
        yield line


def _ends_well(path: Path) -> bool:
    return path.read_bytes()[-1:] == b"\n"


def _digest(cell: Cell) -> str:
    try:
        return cell.digest
    except KeyError:
        return ""
