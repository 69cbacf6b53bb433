"""What a run has drawn and not yet learned for good, on disk: a killed run goes on from it and draws nothing twice.

Owns the folder `rollouts/` of a run: one file a step, its lines in the order in which things happened.

    {"round": ...}   prompts were chosen: their keys, the version and attempt they are drawn under, the sampler afterwards
    {"wave": ...}    rollouts of one group came back and were graded; written before the allocator hears of them
    {"ended": ...}   the step is complete: decisions, advantages, cost

A step that ended is learned from again as it stands, without a server or an allocator; one in the middle opens the same
groups, takes what it has and draws the rest. Files go once a checkpoint holds what was learned from them.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rollout_budget.lines import append_line, read_lines
from trainer.errors import ConfigError
from trainer.types import RolloutGroup, Sample

_SAMPLES = TypeAdapter(tuple[Sample, ...])
_GROUPS = TypeAdapter(list[RolloutGroup])


@dataclass(frozen=True, slots=True)
class Round:
    """Prompts that were chosen together: a step's first choice, or a refill.

    Attributes:
        keys: of the problems, in their order.
        version: of the weights they are opened under.
        attempt: that their groups are opened as.
        plan_id: of the plan that chose them, if one did.
        enough: how many of them complete the round; the rest is cancelled. None waits for all.
        sampler: state of the sampler after the choice.
    """

    keys: tuple[str, ...]
    version: int
    attempt: int
    plan_id: str | None
    enough: int | None
    sampler: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wave:
    """Rollouts of one group that came back together."""

    samples: tuple[Sample, ...]
    outcomes: tuple[float, ...]
    seconds: float


@dataclass(slots=True)
class StepJournal:
    """One step as far as it went."""

    path: Path
    on_begin: Callable[[], None]
    rounds: list[Round] = field(default_factory=list)
    waves: defaultdict[str, list[Wave]] = field(default_factory=lambda: defaultdict(list))
    ended: dict[str, Any] | None = None

    def begin(self, chosen: Round) -> None:
        """Note a choice of prompts, before anything is opened."""
        self.rounds.append(chosen)
        append_line(self.path, {"round": asdict(chosen)})
        self.on_begin()

    def drew(self, group_id: str, wave: Wave) -> None:
        """Note a graded wave, before anything is reported."""
        line = {
            "group": group_id,
            "samples": _SAMPLES.dump_python(wave.samples, mode="json"),
            "outcomes": wave.outcomes,
            "seconds": wave.seconds,
        }
        append_line(self.path, {"wave": line})

    def end(self, groups: Sequence[RolloutGroup], cost: Mapping[str, Any], memory: Mapping[str, Any]) -> None:
        """Note the end of the step, durably.

        Args:
            groups: to learn from.
            cost: the step's figures.
            memory: what whoever chooses prompts remembers after the step.
        """
        kept = _GROUPS.dump_python(list(groups), mode="json", exclude={"__all__": {"samples", "outcomes"}})
        self.ended = {"groups": kept, "cost": dict(cost), "memory": dict(memory)}
        append_line(self.path, {"ended": self.ended}, durably=True)

    def groups(self) -> list[RolloutGroup]:
        """Return the groups of a step that ended, with the samples and outcomes of their waves."""
        assert self.ended is not None  # noqa: S101 - callers look
        return _GROUPS.validate_python([{**kept, **self._drawn(kept["group_id"])} for kept in self.ended["groups"]])

    def _drawn(self, group_id: str) -> dict[str, list[Any]]:
        waves = self.waves[group_id]
        return {
            "samples": [sample for wave in waves for sample in wave.samples],
            "outcomes": [outcome for wave in waves for outcome in wave.outcomes],
        }


class Journal:
    """The steps of a run.

    Args:
        directory: the folder `rollouts` of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def step(self, number: int) -> StepJournal:
        """Return a step, with what is written of it.

        Raises:
            ConfigError: the file is damaged.
        """
        found = StepJournal(self._path(number), on_begin=lambda: self._note(number))
        for place, line in enumerate(read_lines(found.path), start=1):
            try:
                _take(found, json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{found.path} line {place} is damaged ({error}); remove this file and those of later steps to draw "
                    "them anew"
                ) from error
        return found

    def is_lost(self, after: int) -> bool:
        """Whether steps after this one were begun whose record is gone."""
        return any(not self._path(number).is_file() for number in range(after + 1, self._begun() + 1))

    def ended(self, number: int) -> bool:
        """Whether a step needs no more rollouts."""
        return self._path(number).is_file() and self.step(number).ended is not None

    def measurement(self, step: int) -> dict[str, Any] | None:
        """Return what was measured after a step, if it was."""
        for line in reversed(read_lines(self._measured)):
            item: dict[str, Any] = json.loads(line)
            if item.pop("step") == step:
                return item
        return None

    def measured(self, step: int, figures: Mapping[str, Any]) -> None:
        """Note a measurement after a step, off the budget as it is."""
        append_line(self._measured, {**figures, "step": step})

    def forget(self, up_to: int) -> None:
        """Remove the files of steps that a checkpoint holds."""
        for path in self._directory.iterdir():
            match = re.fullmatch(r"step-(\d+)\.jsonl", path.name)
            if match is not None and int(match[1]) <= up_to:
                path.unlink()

    def _path(self, number: int) -> Path:
        return self._directory / f"step-{number}.jsonl"

    def _begun(self) -> int:
        """Return the last step that was ever begun."""
        return int(self._mark.read_text(encoding="utf-8")) if self._mark.is_file() else 0

    def _note(self, number: int) -> None:
        if number > self._begun():
            self._mark.write_text(str(number), encoding="utf-8")

    @property
    def _mark(self) -> Path:
        return self._directory / "begun"

    @property
    def _measured(self) -> Path:
        return self._directory / "measurements.jsonl"


def _take(step: StepJournal, item: dict[str, Any]) -> None:
    """Take one line into account."""
    if "round" in item:
        step.rounds.append(Round(**{**item["round"], "keys": tuple(item["round"]["keys"])}))
    elif "wave" in item:
        wave = item["wave"]
        samples = _SAMPLES.validate_python(wave["samples"])
        step.waves[wave["group"]].append(Wave(samples, tuple(wave["outcomes"]), wave["seconds"]))
    else:
        step.ended = item["ended"]
