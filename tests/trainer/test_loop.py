"""The loop end to end without any server: an allocator and a generator in this process, a tiny policy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollout_budget.client import Breaker, LocalAllocator, ResilientAllocator
from rollout_budget.errors import Unavailable
from rollout_budget.wire import OpenAnswer, OpenRequest
from tests.trainer.tiny import make_policy
from tests.trainer.wiring import Hearing, Wiring
from trainer.errors import ConfigError, GenerationFailed, WeightUpdateFailed
from trainer.learner.batch import Row
from trainer.learner.learner import Learner, StepStatistics
from trainer.metrics import Event, Noticed, Phase, Started, Stepped, Summary, read_metrics
from trainer.rollouts.inprocess import InProcessGenerator
from trainer.types import Sample, Sampling


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

    wiring.told = Hearing(break_and_mend)
    summary = wiring.train(tmp_path, cache, "run.steps=4")
    rows = read_metrics(summary.directory)[1:]
    assert [row.fallback for row in rows] == [False, True, True, False]
    assert [row.degraded for row in rows] == [False, True, True, False]
    assert "away" in rows[1].detail
    usage = wiring.ledger.sync().get_run("run").usage
    assert usage.committed + usage.overage == summary.rollouts


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

        wiring.told = Hearing(mute)
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
