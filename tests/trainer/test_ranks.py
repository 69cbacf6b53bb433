"""Rank 0 drives the others, and lets them go whenever they can hear it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from tests.trainer.tiny import make_rows
from trainer.config import load
from trainer.errors import ConfigError
from trainer.learner.fsdp import World
from trainer.learner.learner import Learner, StepStatistics
from trainer.learner.ranks import follow, lead
from trainer.loop import run_training


class _Wire:
    """A world that writes down what rank 0 sends, or plays it back to another rank."""

    def __init__(self, sent: deque[Any] | None = None) -> None:
        self.plays = sent is not None
        self.leads = not self.plays
        self.sent = sent if sent is not None else deque()

    def broadcast(self, value: Any = None) -> Any:
        if self.plays:
            return self.sent.popleft()
        self.sent.append(value)
        return value


class _Learner:
    """Remembers its calls; fails where asked to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.calls: list[tuple[str, int]] = []
        self._fails = fails

    def step(self, batch: list[Any], version: int | None) -> StepStatistics:
        del version
        if self._fails:
            raise RuntimeError("out of memory")
        self.calls.append(("step", len(batch)))
        return StepStatistics(updates=1)

    def logprobs(self, batch: list[Any]) -> list[tuple[float, ...]]:
        self.calls.append(("logprobs", len(batch)))
        return [() for _ in batch]


def _as(learner: _Learner, wire: _Wire) -> tuple[Learner, World]:
    return cast("Learner", learner), cast("World", wire)


def test_every_rank_makes_the_same_calls_in_the_same_order() -> None:
    """What rank 0 calls is what the others do, until they are let go."""
    first, wire = _Learner(), _Wire()
    with lead(*_as(first, wire)) as team:
        assert team.step(make_rows(3)).updates == 1
        team.logprobs(make_rows(2))
    second = _Learner()
    follow(*_as(second, _Wire(wire.sent)))
    assert second.calls == first.calls == [("step", 3), ("logprobs", 2)]


def test_an_error_between_calls_lets_the_others_go() -> None:
    """They wait for the next call, so they can hear that there is none."""
    wire = _Wire()
    with pytest.raises(KeyError), lead(*_as(_Learner(), wire)):
        raise KeyError
    assert list(wire.sent) == [None]


def test_an_error_inside_a_call_sends_nothing_more() -> None:
    """The others are inside the call's own collectives: a farewell would meet those, and wait for ever."""
    wire = _Wire()
    with pytest.raises(RuntimeError, match="out of memory"), lead(*_as(_Learner(fails=True), wire)) as team:
        team.step(make_rows(1))
    assert [message[0] for message in wire.sent] == ["step"]


def test_what_rank_0_cannot_start_the_others_leave_in_silence(tmp_path: Path) -> None:
    """The error is said once, where it can be said in one line; a second rank would add pages to it."""
    config = load(None, [f"run.output_dir={tmp_path}", "policy.path=not/a/model/at/all"])
    wire = _Wire()
    with pytest.raises(ConfigError, match=r"policy\.path"), _joined(wire):
        run_training(config)
    assert list(wire.sent) == [None]
    with _joined(_Wire(wire.sent)):
        assert run_training(config) is None


@contextmanager
def _joined(wire: _Wire) -> Iterator[None]:
    """Let `run_training` meet this wire as its world."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.loop.world", lambda *_, **__: nullcontext(wire))
        yield
