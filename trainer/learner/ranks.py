"""Rank 0 drives, the others do as it does: every collective method of the learner is called everywhere, in one order.

Owns the calls across ranks. Rank 0 alone draws rollouts, talks to services and writes files; before it calls a method
of the learner it sends the call, and the other ranks, which wait in `follow`, make the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.learner.batch import Row
from trainer.learner.fsdp import World
from trainer.learner.learner import Learner, StepStatistics


class Lead:
    """The learner as rank 0 sees it."""

    def __init__(self, learner: Learner, where: World) -> None:
        self._learner = learner
        self._world = where
        self.in_step = True
        """Whether the other ranks wait for the next call; False inside one, and after one that failed here."""

    def step(self, batch: Sequence[Row], version: int | None = None) -> StepStatistics:
        """Learn from rows on all ranks; `version` is that of the current weights."""
        done: StepStatistics = self._call("step", list(batch), version)
        return done

    def logprobs(self, batch: Sequence[Row]) -> list[tuple[float, ...]]:
        """Return log-probabilities of sampled tokens under the current weights."""
        found: list[tuple[float, ...]] = self._call("logprobs", list(batch))
        return found

    def export(self, root: Path, version: int, dtype: str) -> Path:
        """Write the weights as `root/v{version}`."""
        directory: Path = self._call("export", root, version, dtype)
        return directory

    def save(self, root: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
        """Write a checkpoint."""
        directory: Path = self._call("save", root, step, dict(state), keep)
        return directory

    def load(self, directory: Path) -> dict[str, Any]:
        """Restore a checkpoint and return the loop's own state."""
        state: dict[str, Any] = self._call("load", directory)
        return state

    def _call(self, method: str, *arguments: Any) -> Any:
        self._world.broadcast((method, arguments))
        self.in_step = False
        answer = getattr(self._learner, method)(*arguments)
        self.in_step = True
        return answer


@contextmanager
def lead(learner: Learner, where: World) -> Iterator[Lead]:
    """Drive the other ranks inside the block; they are let go at its end, also after an error.

    Not after an error in the middle of a call: they are then inside other collectives, and torchrun ends them.
    """
    team = Lead(learner, where)
    try:
        yield team
    finally:
        if team.in_step:
            where.broadcast(None)


def follow(learner: Learner, where: World) -> None:
    """Make the calls that rank 0 makes, until it is done."""
    while (call := where.broadcast()) is not None:
        method, arguments = call
        getattr(learner, method)(*arguments)
