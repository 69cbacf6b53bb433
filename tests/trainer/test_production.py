"""Where steps come from: ahead of the learner as far as staleness allows, planned, refilled, over-issued; each once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rollout_budget.client import LocalAllocator
from tests.trainer.test_waves import Scripted
from trainer.config import Config, load
from trainer.errors import ConfigError, GenerationFailed
from trainer.journal import Journal
from trainer.production import Batch, Producer
from trainer.prompts import PromptSampler
from trainer.rewards import ExactVerifier
from trainer.runs import run_spec
from trainer.types import Problem, Sample, Sampling
from trainer.waves import Collector

POOL = [Problem(key=f"p{place}", prompt=str(place), answer="1") for place in range(40)]
FIXED = ("allocator.stopping=fixed", "allocator.k_init=4", "allocator.k_max=4", "rollouts.per_step=16")


class Stage:
    """A producer over a scripted generator; `released` answers the questions that tests ask of it."""

    def __init__(self, tmp_path: Path, *changes: str, generator: Scripted | None = None) -> None:
        self.config: Config = load(None, [*FIXED, "run.rollouts=100000", *changes])
        self.directory = tmp_path / "run"
        self.directory.mkdir(exist_ok=True)
        self.generator = generator or Scripted()
        self.allocator = LocalAllocator()
        self.unfit: set[str] = set()

    async def producer(self, *, attempt: int = 0) -> Producer:
        await self.allocator.create_run(run_spec(self.config, self.directory))
        collector = Collector(
            run_id="run",
            allocator=self.allocator,
            generator=self.generator,
            verifier=ExactVerifier(),
            encode=lambda text: [int(text)],
            sampling=Sampling(max_tokens=4),
        )
        sampler = PromptSampler(POOL, seed=0)
        journal = Journal(self.directory / "rollouts")
        fits = lambda problem: problem.key not in self.unfit  # noqa: E731 - a closure over the set of this test
        producer = Producer(self.config, collector, sampler, journal, fits=fits)
        producer.restore({}, step=0, drawn=0, attempt=attempt)
        return producer

    async def usage(self) -> Any:
        return (await self.allocator.get_run("run")).usage


def keys(batch: Batch) -> list[str]:
    return [group.problem.key for group in batch.groups]


@pytest.mark.parametrize("staleness", [0, 1, 3])
async def test_drawing_is_ahead_by_staleness_and_no_more(tmp_path: Path, staleness: int) -> None:
    """With version v published, exactly the steps up to v + 1 + staleness come; each says what it was drawn under."""
    stage = Stage(tmp_path, f"rollouts.max_staleness={staleness}")
    producer = await stage.producer()
    steps = producer.steps()
    seen: list[Batch] = []
    for version in range(4):
        await producer.published(version)
        while len(seen) < version + 1 + staleness:
            seen.append(await asyncio.wait_for(anext(steps), 10))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ahead := asyncio.ensure_future(anext(steps))), 0.05)
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)
        steps = await _again(producer, steps)
    for batch in seen:
        own = {sample.version for group in batch.groups for sample in group.samples}
        assert own == {max(0, batch.step - 1 - staleness)}


async def test_nothing_is_drawn_before_the_first_weights_are_there(tmp_path: Path) -> None:
    """However far ahead drawing may be; a server has nothing to draw with."""
    stage = Stage(tmp_path, "rollouts.max_staleness=5")
    producer = await stage.producer()
    drawing = asyncio.ensure_future(producer.produce())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(drawing), 0.05)
    assert not stage.generator.drawn
    await producer.published(0)
    assert (await drawing).drawn.used == 16


async def _again(producer: Producer, steps: Any) -> Any:
    """A cancelled `anext` ends the generator: go on with another one of the same producer."""
    await steps.aclose()
    return producer.steps()


async def test_a_step_on_record_comes_again_without_a_draw(tmp_path: Path) -> None:
    """Groups, cost and choice of prompts are what they were; the step after it goes on from there."""
    stage = Stage(tmp_path)
    producer = await stage.producer()
    await producer.published(2)
    first, second = [await producer.produce() for _ in range(2)]
    drawn = sum(stage.generator.drawn.values())
    again = await stage.producer()
    await again.published(2)
    replayed = await again.produce()
    assert replayed == Batch(first.step, first.groups, first.drawn, first.memory, replayed=True, resumed=True)
    assert (await again.produce()).groups == second.groups
    assert sum(stage.generator.drawn.values()) == drawn
    assert not set(keys(await again.produce())) & {*keys(first), *keys(second)}


async def test_a_problem_that_is_gone_is_told(tmp_path: Path) -> None:
    """Half a step on record, whose task was changed meanwhile."""
    stage = Stage(tmp_path)
    producer = await stage.producer()
    await producer.published(0)
    await producer.produce()
    record = tmp_path / "run" / "rollouts" / "step-1.jsonl"
    lines = record.read_text().splitlines()[:-1]
    record.write_text("\n".join(lines).replace('["p', '["gone') + "\n")
    again = await stage.producer()
    await again.published(0)
    with pytest.raises(ConfigError, match="which the task has no more"):
        await again.produce()
    record.write_text("no JSON\n")
    with pytest.raises(ConfigError, match=r"step-1\.jsonl line 1 is damaged .* remove this file"):
        await (await stage.producer()).produce()


class Dull(Scripted):
    """Even prompts always succeed: they have no signal."""

    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        drawn = await super().generate(prompt_ids, count=count, sampling=sampling, version=version, seed=seed)
        mixed = ["1", "0"] * count if prompt_ids[0] % 2 else ["1"] * count
        return [
            Sample(sample.token_ids, sample.logprobs, text, "stop", version)
            for sample, text in zip(drawn, mixed, strict=False)
        ]


async def test_groups_without_signal_are_replaced_and_paid_for(tmp_path: Path) -> None:
    """DAPO: rounds of new prompts until the step is full; what the replaced ones drew is booked and said."""
    stage = Stage(tmp_path, "rollouts.refill_rounds=20", generator=Dull())
    producer = await stage.producer()
    await producer.published(0)
    batch = await producer.produce()
    assert len(batch.groups) >= 4
    assert all(len(set(group.outcomes)) == 2 for group in batch.groups)
    assert batch.drawn.without_signal == batch.drawn.groups - len(batch.groups) > 0
    assert batch.drawn.used == 4 * batch.drawn.groups == (await stage.usage()).committed
    again = await stage.producer()
    assert (await again.produce()).groups == batch.groups


async def test_a_pool_without_any_signal_ends_the_refill(tmp_path: Path) -> None:
    """Bounded by the rounds and by the pool; the step is then as empty as it is, and counts."""
    stage = Stage(tmp_path, "rollouts.refill_rounds=64", generator=Dull())
    stage.unfit = {problem.key for problem in POOL if int(problem.prompt) % 2}
    producer = await stage.producer()
    await producer.published(0)
    batch = await producer.produce()
    assert (batch.groups, batch.drawn.groups, batch.drawn.used) == ([], 20, 80)


async def test_over_issue_cancels_the_stragglers_and_deals_them_again(tmp_path: Path) -> None:
    """Two prompts never come back: the step is complete without them, they cost nothing, and come first in the next."""
    stage = Stage(tmp_path, "rollouts.over_issue=0.5")
    producer = await stage.producer()
    first = PromptSampler(POOL, seed=0).take(6)
    stage.generator.held = {int(problem.prompt): asyncio.Event() for problem in first[:2]}
    await producer.published(0)
    batch = await producer.produce()
    assert keys(batch) == [problem.key for problem in first[2:]]
    assert (batch.drawn.cancelled, batch.drawn.used) == (8, 16)
    usage = await stage.usage()
    assert (usage.committed, usage.reserved, usage.overage) == (16, 0, 0)
    stage.generator.held = {}
    await producer.published(1)
    assert {problem.key for problem in first[:2]} <= set(keys(await producer.produce()))


async def test_over_issue_keeps_what_a_cut_group_had(tmp_path: Path) -> None:
    """A group that waits for its second wave when enough others are complete is learned from with its first."""
    changes = (
        "allocator.stopping=posterior_variance",
        "allocator.price=0",
        "allocator.k_init=2",
        "rollouts.over_issue=1",
    )
    stage = Stage(tmp_path, *changes, "rollouts.prompts_per_step=3", generator=_SlowSecond())
    producer = await stage.producer()
    await producer.published(0)
    batch = await producer.produce()
    sizes = sorted(len(group.samples) for group in batch.groups)
    assert sizes == [2, 2, 2, 4, 4, 4]
    assert batch.drawn.cancelled == 6
    usage = await stage.usage()
    assert usage.committed == sum(sizes) == batch.drawn.used
    assert usage.reserved == 0


class _SlowSecond(Scripted):
    """The second wave of every other prompt that comes never ends."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0

    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        if self.waves[prompt_ids[0]] == 1:
            self._second += 1
            if self._second % 2:
                await asyncio.Event().wait()
        return await super().generate(prompt_ids, count=count, sampling=sampling, version=version, seed=seed)


async def test_a_plan_chooses_among_candidates_and_its_weights_are_known(tmp_path: Path) -> None:
    """Prompts come from several times as many; the groups name the plan, so that the ledger has their weights."""
    stage = Stage(tmp_path, "allocator.plan=true", "allocator.plan_candidates=5")
    producer = await stage.producer()
    await producer.published(0)
    batch = await producer.produce()
    candidates = {problem.key for problem in PromptSampler(POOL, seed=0).take(20)}
    assert len(batch.groups) == 4
    assert set(keys(batch)) < candidates
    plan_ids = {round_.plan_id for round_ in Journal(tmp_path / "run" / "rollouts").step(1).rounds}
    assert plan_ids == {"1-0-0"}


async def test_prompts_that_do_not_fit_are_passed_over(tmp_path: Path) -> None:
    """Others take their place; a pool of which none fits says so."""
    stage = Stage(tmp_path)
    stage.unfit = {problem.key for problem in POOL[:30]}
    producer = await stage.producer()
    await producer.published(9)
    seen = [key for _ in range(4) for key in keys(await producer.produce())]
    assert set(seen) == {problem.key for problem in POOL[30:]}
    stage.unfit = {problem.key for problem in POOL}
    with pytest.raises(GenerationFailed, match="no prompt of the pool fits"):
        await producer.produce()
