"""A killed run goes on where it was, and draws nothing twice (G24); and a run whose rollouts are ahead of its learner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rollout_budget.client import RecordedAllocator
from tests.trainer.wiring import TINY, Hearing, Wiring
from trainer.config import load
from trainer.loop import run_training
from trainer.metrics import Event, Noticed, Started, StepMetrics, Stepped, Summary, read_metrics
from trainer.rollouts.inprocess import InProcessGenerator
from trainer.types import Sample, Sampling

KILLED = ("run.steps=4", "checkpoint.every=2", "allocator.price=0", "allocator.k_max=4", "rollouts.prompts_per_step=4")
TOLD = {"accuracy", "rollouts", "loss", "grad_norm", "kl", "held_out_accuracy", "rollouts_total", "mean_group_size"}


@pytest.mark.parametrize("calls", [1, 4, 6, 8])
def test_g24_a_run_killed_among_rollouts_goes_on_as_if_it_had_not_been(tmp_path: Path, cache: Path, calls: int) -> None:
    """Killed at a call of step 3, checkpoint at 2: the curve is that of an uninterrupted run, no rollout drawn twice.

    Only what was on its way to the killed process is drawn again; it is the same, and was never booked.
    """
    whole = Wiring()
    expected = whole.train(tmp_path / "whole", cache, *KILLED)
    interrupted = Wiring()
    generators = iter([Dying(calls), InProcessGenerator()])
    interrupted.make_generator = lambda: next(generators)  # type: ignore[method-assign] # one that dies, one that does not
    with pytest.raises(Killed):
        interrupted.train(tmp_path / "killed", cache, *KILLED)
    interrupted.told.clear()
    summary = interrupted.train(tmp_path / "killed", cache, *KILLED)
    assert interrupted.told[0] == Started(summary.directory, summary.method, 2, _row(expected, 2).rollouts_total)
    assert _curve(summary) == _curve(expected)
    assert _weights(summary) == _weights(expected)
    ledger = interrupted.ledger.sync().get_run("run").usage
    assert (ledger.committed, ledger.overage, ledger.reserved) == (summary.rollouts, 0, 0)
    assert not any(isinstance(event, Noticed) and "not learned from" in event.text for event in interrupted.told)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_g24_a_run_killed_after_a_step_learns_from_it_again(tmp_path: Path, cache: Path, step: int) -> None:
    """Killed with steps that no checkpoint holds: their rollouts are learned from again, and none is drawn again."""
    expected = Wiring().train(tmp_path / "whole", cache, *KILLED, "checkpoint.every=4")
    killed = Wiring()
    killed.told = Hearing(lambda event: _kill_after(event, step))
    with pytest.raises(Killed):
        killed.train(tmp_path / "killed", cache, *KILLED, "checkpoint.every=4")
    killed.told = []
    summary = killed.train(tmp_path / "killed", cache, *KILLED, "checkpoint.every=4")
    assert _curve(summary) == _curve(expected)
    assert _weights(summary) == _weights(expected)
    drawn = sum(generator.counts.samples for generator in killed.generators)
    assert drawn == summary.rollouts + summary.evaluation_rollouts
    assert [row.replayed for row in read_metrics(summary.directory)[1:]] == [place < step for place in range(4)]


def test_g24_without_a_service_the_ledger_is_in_the_runs_folder(tmp_path: Path, cache: Path) -> None:
    """A run with its allocator in this process goes on with the same ledger and the same record of its prior."""
    changes = [*KILLED, f"run.output_dir={tmp_path}", f"run.cache_dir={cache}", "run.id=run"]
    whole = run_training(load(None, [*TINY, *changes, f"run.output_dir={tmp_path / 'whole'}"]))
    assert whole is not None
    with pytest.raises(Killed):
        run_training(load(None, [*TINY, *changes]), on_event=lambda event: _kill_after(event, 3))
    summary = run_training(load(None, [*TINY, *changes]))
    assert summary is not None
    assert _curve(summary) == _curve(whole)
    ledger = asyncio.run(RecordedAllocator.restored(tmp_path / "run" / "allocator.jsonl")).sync().get_run("run")
    assert (ledger.usage.committed, ledger.usage.overage, ledger.usage.reserved) == (summary.rollouts, 0, 0)
    assert ledger.status == "finished"


def test_rollouts_whose_record_is_lost_stay_booked(tmp_path: Path, cache: Path) -> None:
    """Somebody removes the record of step 3: it is drawn anew under a new attempt, and the run says what that cost."""
    changes = ["run.steps=4", "checkpoint.every=2", "evaluation.every=0"]
    killed = Wiring()
    killed.told = Hearing(lambda event: _kill_after(event, 3))
    with pytest.raises(Killed):
        killed.train(tmp_path, cache, *changes)
    (tmp_path / "run" / "rollouts" / "step-3.jsonl").unlink()
    lost = killed.ledger.sync().get_run("run").usage.committed - _checkpointed(tmp_path / "run")
    killed.told = []
    summary = killed.train(tmp_path, cache, *changes)
    assert Noticed(f"{lost} rollouts of an earlier attempt are booked, but were not learned from.") in killed.told
    drawn = sum(generator.counts.samples for generator in killed.generators)
    assert (
        summary.rollouts == drawn - summary.evaluation_rollouts == killed.ledger.sync().get_run("run").usage.committed
    )
    assert (summary.directory / "attempt").read_text() == "1"


def test_limits_may_be_raised_when_a_run_goes_on(tmp_path: Path, cache: Path) -> None:
    """A run that has used its limit goes on with a larger one."""
    wiring = Wiring()
    wiring.told = Hearing(lambda event: _kill_after(event, 1))
    with pytest.raises(Killed):
        wiring.train(tmp_path, cache, "run.rollouts=40")
    wiring.told = []
    summary = wiring.train(tmp_path, cache, "run.rollouts=50")
    assert wiring.ledger.sync().get_run("run").spec.limits.rollouts == summary.rollouts == 50


def _kill_after(event: Event, step: int) -> None:
    if isinstance(event, Stepped) and event.metrics.step == step:
        raise Killed


def _row(summary: Summary, step: int) -> StepMetrics:
    return next(row for row in read_metrics(summary.directory) if row.step == step)


def _curve(summary: Summary) -> list[dict[str, Any]]:
    """Return everything about a run's steps that does not depend on the clock."""
    return [row.model_dump(include=TOLD) for row in read_metrics(summary.directory)]


def _weights(summary: Summary) -> bytes:
    """Return the final weights."""
    return (summary.directory / "weights" / f"v{summary.steps}" / "model.safetensors").read_bytes()


def _checkpointed(directory: Path) -> int:
    (state,) = directory.glob("checkpoints/step-*/state.json")
    rollouts: int = json.loads(state.read_text())["progress"]["rollouts"]
    return rollouts


@pytest.mark.parametrize("staleness", [1, 3])
def test_rollouts_may_be_ahead_of_the_learner(tmp_path: Path, cache: Path, staleness: int) -> None:
    """No token is older than allowed, some are old, each step is done once and the ledger agrees (asynchrony)."""
    changes = (f"rollouts.max_staleness={staleness}", "learner.importance=truncated", "evaluation.every=0")
    wiring = Wiring()
    summary = wiring.train(tmp_path, cache, "run.steps=6", *changes)
    rows = read_metrics(summary.directory)[1:]
    assert [row.step for row in rows] == [1, 2, 3, 4, 5, 6]
    oldest = [row.staleness_max for row in rows]
    assert max(item for item in oldest if item is not None) == staleness
    assert oldest[0] == 0
    usage = wiring.ledger.sync().get_run("run").usage
    assert (usage.committed, usage.reserved) == (summary.rollouts, 0)


def test_g24_a_run_killed_while_it_was_ahead_draws_nothing_twice(tmp_path: Path, cache: Path) -> None:
    """Steps drawn ahead of the killed learner are on record too."""
    changes = ("run.steps=6", "rollouts.max_staleness=2", "checkpoint.every=6", "evaluation.every=0")
    killed = Wiring()
    killed.told = Hearing(lambda event: _kill_after(event, 2))
    with pytest.raises(Killed):
        killed.train(tmp_path, cache, *changes)
    killed.told = []
    summary = killed.train(tmp_path, cache, *changes)
    usage = killed.ledger.sync().get_run("run").usage
    assert summary.steps == 6
    assert (usage.committed, usage.overage, usage.reserved) == (summary.rollouts, 0, 0)
    assert sum(row.rollouts for row in read_metrics(summary.directory)) == summary.rollouts


class Killed(Exception):
    """What a test takes for a SIGKILL."""


class Dying(InProcessGenerator):
    """Ends its process with the given call of step 3, the held-out problems of version 2 not counted."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._calls_left = calls + 6

    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        self._calls_left -= version == 2
        if self._calls_left == 0:
            raise Killed
        return await super().generate(prompt_ids, count=count, sampling=sampling, version=version, seed=seed)
