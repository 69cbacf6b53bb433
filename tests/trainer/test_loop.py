"""The loop end to end without any server: an allocator and a generator in this process, a tiny policy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollout_budget.client import Breaker, LocalAllocator, RecordedAllocator, ResilientAllocator
from rollout_budget.errors import Unavailable
from rollout_budget.wire import OpenAnswer, OpenRequest
from tests.trainer.tiny import SHAPE, make_policy
from trainer import rewards, tasks
from trainer.config import Config, load
from trainer.errors import ConfigError, GenerationFailed, WeightUpdateFailed
from trainer.learner.batch import Row
from trainer.learner.learner import Learner, StepStatistics
from trainer.loop import run_training
from trainer.metrics import Event, Listener, Noticed, Phase, Started, StepMetrics, Stepped, Summary, read_metrics
from trainer.parts import Parts
from trainer.rollouts.inprocess import InProcessGenerator
from trainer.types import Sample, Sampling

TINY = [
    "task.arithmetic.levels=[1]",
    "task.arithmetic.size=30",
    "task.arithmetic.held_out_size=6",
    *(f"policy.demo.{name}={value}" for name, value in SHAPE.model_dump().items() if not name.startswith("warmup")),
    "policy.demo.warmup_steps=25",
    "policy.demo.warmup_batch=16",
    "rollouts.per_step=12",
    "rollouts.max_tokens=3",
    "evaluation.every=1",
    "checkpoint.every=1",
    "logging.progress=false",
    "learner.lr=1e-3",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


class Wiring:
    """Parts for `run_training` that outlive one run, so that tests can look at them and break them."""

    def __init__(self) -> None:
        self.ledger = LocalAllocator()
        self.allocator: Any = self.ledger
        self.generators: list[InProcessGenerator] = []
        self.told: list[Event] = []

    def make_generator(self) -> InProcessGenerator:
        return InProcessGenerator()

    @asynccontextmanager
    async def connect(self, config: Config, tell: Listener) -> AsyncIterator[Parts]:
        del tell
        generator = self.make_generator()
        self.generators.append(generator)
        task = tasks.get(config.task.name, config.task.options)
        try:
            yield Parts(task, rewards.get(config.task.verifier), generator, generator, self.allocator)
        finally:
            await generator.close()

    def train(self, tmp_path: Path, cache: Path, *changes: str) -> Summary:
        places = [f"run.output_dir={tmp_path}", f"run.cache_dir={cache}", "run.id=run"]
        config = load(None, [*TINY, *places, *changes])
        summary = run_training(config, on_event=self.told.append, connect=self.connect)
        assert summary is not None
        return summary


def test_two_steps_end_to_end(tmp_path: Path, cache: Path) -> None:
    """Ledger, trainer and generator count the same rollouts; the files of a run are there; events tell its story."""
    wiring = Wiring()
    summary = wiring.train(tmp_path, cache, "run.steps=2")
    assert (summary.steps, summary.run_id) == (2, "run")
    counts = wiring.ledger.sync().get_run("run").usage
    (generator,) = wiring.generators
    assert counts.committed == summary.rollouts > 0
    assert counts.reserved == counts.overage == 0
    assert summary.evaluation_rollouts == 3 * 6
    assert generator.counts.samples == summary.rollouts + summary.evaluation_rollouts
    assert wiring.ledger.sync().get_run("run").status == "finished"

    first, *steps = read_metrics(summary.directory)
    assert (first.step, first.rollouts_total, first.held_out_accuracy) == (0, 0, summary.accuracy_start)
    assert [row.step for row in steps] == [1, 2]
    assert steps[-1].held_out_accuracy == summary.accuracy_end
    assert steps[-1].rollouts_total == summary.rollouts
    assert steps[-1].rollouts_saved == counts.saved == summary.rollouts_saved
    for row in steps:
        assert row.mismatch is not None
        assert row.mismatch < 1e-5
        assert set(row.seconds) == {"rollouts", "learning", "publishing", "evaluation", "checkpoint"}
    assert json.loads((summary.directory / "summary.json").read_text())["rollouts"] == summary.rollouts
    assert sorted(path.name for path in (summary.directory / "weights").iterdir()) == ["v1", "v2"]

    kinds = [type(event) for event in wiring.told if not isinstance(event, Phase)]
    assert kinds == [Started, Stepped, Stepped, Noticed, Stepped, Summary]
    assert any(isinstance(event, Noticed) and "hold the same weights" in event.text for event in wiring.told)


def test_a_loss_over_first_waves_has_their_tokens_only(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups are extended, but the learner gets only the two samples of each that may carry an advantage."""
    learned: list[int] = []
    step = Learner.step

    def watched(learner: Learner, batch: Sequence[Row], version: int | None = None) -> StepStatistics:
        learned.append(len(batch))
        return step(learner, batch, version)

    monkeypatch.setattr(Learner, "step", watched)
    rules = ("allocator.advantage_samples=first_wave", "allocator.k_init=2", "allocator.k_max=4", "allocator.price=0")
    summary = Wiring().train(tmp_path, cache, "run.steps=1", *rules)
    (row,) = read_metrics(summary.directory)[1:]
    assert row.rollouts > 2 * row.groups
    assert learned == [2 * row.groups]


def test_the_budget_is_never_exceeded(tmp_path: Path, cache: Path) -> None:
    """A limit that fits no whole number of steps is used to the last rollout and not beyond."""
    wiring = Wiring()
    summary = wiring.train(tmp_path, cache, "run.rollouts=31", "allocator.stopping=fixed", "allocator.k_max=4")
    assert summary.rollouts == wiring.ledger.sync().get_run("run").usage.committed == 31


@pytest.mark.parametrize("every", [0, 1])
def test_a_budget_that_is_gone_ends_the_run_quietly(tmp_path: Path, cache: Path, every: int) -> None:
    """Somebody lowers the limit under way: the run says so, measures if the last step was not, saves and ends."""
    wiring = Wiring()
    ledger = wiring.ledger

    class Strict(LocalAllocator):
        async def open(self, run_id: str, request: OpenRequest) -> OpenAnswer:
            answer = await ledger.open(run_id, request)
            step = request.groups[0].step
            refused = [group.model_copy(update={"grant": 0, "reason": "budget_exhausted"}) for group in answer.groups]
            return answer if step == 1 else answer.model_copy(update={"groups": refused})

    strict = Strict()
    strict.__dict__.update({"_engine": ledger._engine, "_team": ledger._team})
    wiring.allocator = strict
    summary = wiring.train(tmp_path, cache, "run.steps=5", f"evaluation.every={every}")
    assert summary.steps == 1
    assert any(isinstance(event, Noticed) and "budget is used up" in event.text for event in wiring.told)
    rows = read_metrics(summary.directory)
    assert [row.step for row in rows] == [0, 1]
    assert (rows[1].held_out_accuracy, rows[1].rollouts) == (summary.accuracy_end, summary.rollouts)
    assert summary.evaluation_rollouts == 2 * 6


def test_a_temperature_belongs_to_the_policy_that_is_learned(tmp_path: Path, cache: Path) -> None:
    """Rollouts and learner agree on every log-probability at another temperature than 1, so ratios begin at 1."""
    summary = Wiring().train(tmp_path, cache, "run.steps=2", "rollouts.temperature=0.6")
    for row in read_metrics(summary.directory)[1:]:
        assert row.mismatch is not None
        assert row.mismatch < 1e-5


def test_servers_that_forget_the_temperature_are_found_out(tmp_path: Path, cache: Path) -> None:
    """Log-probabilities from before the temperature would make wrong ratios: refused, also with the check turned off."""
    wiring = Wiring()
    wiring.make_generator = _Raw  # type: ignore[method-assign] # a generator without processed log-probabilities
    with pytest.raises(WeightUpdateFailed, match="--logprobs-mode processed_logprobs"):
        wiring.train(tmp_path, cache, "run.steps=1", "rollouts.temperature=0.6", "weights.check=false")


class _Raw(InProcessGenerator):
    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        plain = replace(sampling, temperature=1.0)
        return await super().generate(prompt_ids, count=count, sampling=plain, version=version, seed=seed)


KILLED = ("run.steps=4", "checkpoint.every=2", "allocator.price=0", "allocator.k_max=4")
TOLD = {"accuracy", "rollouts", "loss", "grad_norm", "kl", "held_out_accuracy", "rollouts_total", "mean_group_size"}


@pytest.mark.parametrize("calls", [1, 4, 6, 8])
def test_g24_a_run_killed_among_rollouts_goes_on_as_if_it_had_not_been(tmp_path: Path, cache: Path, calls: int) -> None:
    """Killed at a call of step 3, checkpoint at 2: the curve is that of an uninterrupted run, no rollout drawn twice.

    Only what was on its way to the killed process is drawn again; it is the same, and was never booked.
    """
    whole = Wiring()
    expected = whole.train(tmp_path / "whole", cache, *KILLED)
    interrupted = Wiring()
    generators = iter([_Dying(calls), InProcessGenerator()])
    interrupted.make_generator = lambda: next(generators)  # type: ignore[method-assign] # one that dies, one that does not
    with pytest.raises(_Killed):
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
    killed.told = _Hearing(lambda event: _kill_after(event, step))
    with pytest.raises(_Killed):
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
    with pytest.raises(_Killed):
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
    killed.told = _Hearing(lambda event: _kill_after(event, 3))
    with pytest.raises(_Killed):
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
    wiring.told = _Hearing(lambda event: _kill_after(event, 1))
    with pytest.raises(_Killed):
        wiring.train(tmp_path, cache, "run.rollouts=40")
    wiring.told = []
    summary = wiring.train(tmp_path, cache, "run.rollouts=50")
    assert wiring.ledger.sync().get_run("run").spec.limits.rollouts == summary.rollouts == 50


def _kill_after(event: Event, step: int) -> None:
    if isinstance(event, Stepped) and event.metrics.step == step:
        raise _Killed


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


def test_a_finished_run_says_how_to_go_on(tmp_path: Path, cache: Path) -> None:
    """An allocator that remembers takes no more groups of it; asked for no more, it just ends again."""
    wiring = Wiring()
    service = "allocator.url=http://a.service.that.remembers"
    wiring.train(tmp_path, cache, "run.steps=1", service)
    assert wiring.train(tmp_path, cache, "run.steps=1", service).steps == 1
    with pytest.raises(ConfigError, match=r"has this run as finished; give another run\.id, with policy\.path"):
        wiring.train(tmp_path, cache, "run.steps=2", service)


def test_a_run_that_never_began_binds_nobody(tmp_path: Path, cache: Path) -> None:
    """Settings that turned out to be wrong before anything was drawn may be mended under the same id."""
    lines = tmp_path / "problems.jsonl"
    with pytest.raises(ConfigError, match="cannot read"):
        Wiring().train(
            tmp_path,
            cache,
            "run.steps=1",
            f"policy.path={make_policy(tmp_path / 'policy')}",
            "task.name=jsonl",
            f"task.jsonl.path={lines}",
        )
    assert Wiring().train(tmp_path, cache, "run.steps=1").steps == 1


class _Killed(Exception):
    """What a test takes for a SIGKILL."""


class _Dying(InProcessGenerator):
    """Ends its process with the given call of step 3, the held-out problems of version 2 not counted."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._calls_left = calls + 6

    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        self._calls_left -= version == 2
        if self._calls_left == 0:
            raise _Killed
        return await super().generate(prompt_ids, count=count, sampling=sampling, version=version, seed=seed)


def test_other_settings_under_the_same_id_are_refused(tmp_path: Path, cache: Path) -> None:
    """What would be another run is told by field; where a service is may change."""
    Wiring().train(tmp_path, cache, "run.steps=1")
    with pytest.raises(ConfigError, match=r"allocator\.k_max = 4: .* was started with 16; keep it to go on"):
        Wiring().train(tmp_path, cache, "run.steps=1", "allocator.k_max=4")
    again = Wiring().train(tmp_path, cache, "run.steps=2", "allocator.key_file=elsewhere")
    assert again.steps == 2


def test_a_trainer_is_not_stopped_by_its_allocator(tmp_path: Path, cache: Path) -> None:
    """The allocator is away for steps 2 and 3: the run goes on, says so, and the ledger is right at its end (G22)."""
    wiring = Wiring()
    service = _Flaky(wiring.ledger)
    wiring.allocator = ResilientAllocator(service, breaker=Breaker(probe_after_s=0.0))

    def break_and_mend(event: Event) -> None:
        if isinstance(event, Phase) and event.name == "publishing":
            service.away = event.step in {1, 2}

    wiring.told = _Hearing(break_and_mend)
    summary = wiring.train(tmp_path, cache, "run.steps=4")
    rows = read_metrics(summary.directory)[1:]
    assert [row.fallback for row in rows] == [False, True, True, False]
    assert [row.degraded for row in rows] == [False, True, True, False]
    assert "away" in rows[1].detail
    usage = wiring.ledger.sync().get_run("run").usage
    assert usage.committed + usage.overage == summary.rollouts


class _Hearing(list[Event]):
    """A list of events that also passes them on."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def append(self, event: Event) -> None:
        super().append(event)
        self._listener(event)


class _Flaky:
    """A service that refuses connections while it is `away`."""

    def __init__(self, inner: LocalAllocator) -> None:
        self._inner = inner
        self.away = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*arguments: Any) -> Any:
            if self.away:
                raise Unavailable("away")
            return await method(*arguments)

        return call


def test_a_run_without_any_generator_ends_with_an_error(tmp_path: Path, cache: Path) -> None:
    """No rollouts for any prompt of a step is not borne: the error says why, and what to look at."""
    wiring = Wiring()
    wiring.make_generator = _Mute  # type: ignore[method-assign] # a generator that only measures
    with pytest.raises(GenerationFailed, match=r"any prompt of step 1: no server; see that rollouts\.urls"):
        wiring.train(tmp_path, cache, "run.steps=2")


def test_a_run_whose_generators_are_lost_says_how_to_go_on(tmp_path: Path, cache: Path) -> None:
    """What worked and broke is no wrong setup: the last checkpoint stands, and the message names it by its run."""
    wiring = Wiring()
    with pytest.MonkeyPatch.context() as patch:

        def mute(event: Event) -> None:
            if event == Phase(1, "publishing"):
                patch.setattr(InProcessGenerator, "generate", _Mute.generate)

        wiring.told = _Hearing(mute)
        with pytest.raises(GenerationFailed, match=r"step 2: no server; mend .* with run\.id = 'run'$"):
            wiring.train(tmp_path, cache, "run.steps=2")
    assert Wiring().train(tmp_path, cache, "run.steps=2").steps == 2


class _Mute(InProcessGenerator):
    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        del prompt_ids, count, sampling, version, seed
        raise GenerationFailed("no server")


def test_servers_with_other_weights_are_found_out(tmp_path: Path, cache: Path) -> None:
    """A publisher that loads nothing after the first time: the check after the first update stops the run."""
    wiring = Wiring()
    wiring.make_generator = _Stale  # type: ignore[method-assign] # a generator that keeps its first weights
    with pytest.raises(WeightUpdateFailed, match="not the same weights"):
        wiring.train(tmp_path, cache, "run.steps=3", "learner.lr=1e-2")


class _Stale(InProcessGenerator):
    async def publish(self, directory: Path, version: int) -> None:
        if version == 0:
            await super().publish(directory, version)
        self._version = version
