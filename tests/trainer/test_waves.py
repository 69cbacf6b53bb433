"""A step's rollouts: waves overlap, every sample is booked once, and failures give back what they held."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.client.local import LocalAllocator
from rollout_budget.errors import Unavailable
from rollout_budget.wire import CloseRequest, ObserveAnswer, ObserveRequest, RunLimits, RunSpec
from trainer.errors import GenerationFailed
from trainer.groups import group_id, wave_seed
from trainer.rewards import ExactVerifier
from trainer.types import Problem, Sample, Sampling
from trainer.waves import Collector


class Scripted:
    """Generates "1" or "0" by a seeded coin; keys in `broken` fail at that wave, keys in `held` wait for their event."""

    def __init__(self) -> None:
        self.drawn: Counter[tuple[int, ...]] = Counter()
        self.seeds: set[int] = set()
        self.broken: dict[int, int] = {}
        self.held: dict[int, asyncio.Event] = {}
        self.waves: Counter[int] = Counter()

    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        assert sampling.max_tokens == 4
        key, wave = prompt_ids[0], self.waves[prompt_ids[0]]
        self.waves[key] += 1
        if key in self.held:
            await self.held[key].wait()
        if self.broken.get(key) == wave:
            raise GenerationFailed("no server")
        self.seeds.add(seed)
        self.drawn[tuple(prompt_ids)] += count
        return [Sample((1, 2), (-1.0, -1.0), str((seed >> place) % 2), "stop", version) for place in range(count)]

    async def close(self) -> None: ...


class Watched(LocalAllocator):
    """Counts calls and keeps the groups of each observe."""

    def __init__(self) -> None:
        super().__init__()
        self.observed: list[list[str]] = []
        self.closes = 0

    async def observe(self, run_id: str, request: ObserveRequest) -> ObserveAnswer:
        self.observed.append([group.group_id for group in request.groups])
        await asyncio.sleep(0)
        return await super().observe(run_id, request)

    async def close(self, run_id: str, request: CloseRequest) -> Any:
        self.closes += 1
        return await super().close(run_id, request)


def problems(count: int) -> list[Problem]:
    return [Problem(key=f"p{place}", prompt=str(place), answer="1") for place in range(count)]


async def collector(generator: Scripted, allocator: LocalAllocator | None = None, **spec: Any) -> Collector:
    allocator = allocator or Watched()
    await allocator.create_run(RunSpec(run_id="run", policy="policy", **spec))
    return Collector(
        run_id="run",
        allocator=allocator,
        generator=generator,
        verifier=ExactVerifier(),
        encode=lambda text: [int(text)],
        sampling=Sampling(max_tokens=4),
    )


async def test_the_ledger_and_the_groups_agree_on_every_rollout() -> None:
    generator, allocator = Scripted(), Watched()
    step = await collector(generator, allocator, k_init=2)
    groups, stats = await step.collect(problems(40), step=3, version=7)
    usage = (await allocator.get_run("run")).usage
    drawn = sum(generator.drawn.values())
    assert drawn == stats.used == usage.committed == sum(len(group.samples) for group in groups)
    assert usage.reserved == 0
    assert usage.overage == 0
    assert stats.tokens == usage.tokens == 2 * drawn
    assert stats.saved == usage.saved == 16 * 40 - drawn
    assert stats.extended == sum(len(group.samples) > group.first_wave for group in groups) > 0
    assert stats.waves == len(generator.seeds) == sum(generator.waves.values())
    assert allocator.closes == 1


async def test_groups_come_back_aligned_and_in_order() -> None:
    step = await collector(Scripted(), k_init=2)
    groups, _ = await step.collect(problems(9), step=3, version=7)
    assert [group.problem for group in groups] == problems(9)
    for group in groups:
        assert group.group_id == f"3-{group.problem.key}"
        assert group.version == 7
        assert len(group.samples) == len(group.outcomes) == len(group.advantages)
        assert list(group.outcomes) == [float(sample.text == "1") for sample in group.samples]


async def test_advantages_are_outcomes_minus_baselines_and_never_divided_by_a_spread() -> None:
    """GRPO's sizes with group_mean: equal outcomes give exactly 0, others the plain difference to the mean."""
    step = await collector(Scripted(), estimator="group_mean", stopping="fixed", k_init=16, k_max=16)
    groups, stats = await step.collect(problems(5), step=0, version=0)
    assert (stats.used, stats.waves, stats.saved) == (80, 5, 0)
    for group in groups:
        mean = sum(group.outcomes) / 16
        assert group.advantages == pytest.approx([outcome - mean for outcome in group.outcomes])


async def test_a_slow_group_holds_nobody_up() -> None:
    """All others are decided while one still generates; it is reported afterwards, alone."""
    generator, allocator = Scripted(), Watched()
    generator.held[4] = asyncio.Event()
    step = await collector(generator, allocator, stopping="fixed", k_init=2, k_max=2)
    running = asyncio.ensure_future(step.collect(problems(8), step=0, version=0))
    while sum(map(len, allocator.observed)) < 7:  # noqa: ASYNC110 - the allocator's own record is the signal
        await asyncio.sleep(0)
    assert not running.done()
    generator.held[4].set()
    groups, _ = await running
    assert len(groups) == 8
    assert allocator.observed[-1] == ["0-p4"]


async def test_what_is_ready_together_is_reported_together() -> None:
    allocator = Watched()
    step = await collector(Scripted(), allocator, stopping="fixed", k_init=2, k_max=2)
    _, stats = await step.collect(problems(200), step=0, version=0)
    assert len(allocator.observed) < 10
    assert stats.allocator_calls == len(allocator.observed) + 2


async def test_a_group_that_cannot_be_generated_is_given_back_and_left_out() -> None:
    generator, allocator = Scripted(), Watched()
    generator.broken = {1: 0}
    step = await collector(generator, allocator, stopping="fixed", k_init=4, k_max=4)
    groups, stats = await step.collect(problems(3), step=0, version=0)
    assert [group.problem.key for group in groups] == ["p0", "p2"]
    usage = (await allocator.get_run("run")).usage
    assert (stats.failed, stats.used, stats.granted) == (1, 8, 12)
    assert (usage.committed, usage.released, usage.reserved) == (8, 4, 0)
    assert "no server" in stats.detail


async def test_a_group_that_fails_later_keeps_its_first_wave() -> None:
    generator, allocator = Scripted(), Watched()
    generator.broken = dict.fromkeys(range(30), 1)
    step = await collector(generator, allocator, k_init=2, price=0.0, k_max=8)
    groups, stats = await step.collect(problems(30), step=0, version=0)
    assert {len(group.samples) for group in groups} == {2}
    assert (stats.failed, stats.used) == (30, 60)
    assert (await allocator.get_run("run")).usage.reserved == 0


async def test_a_budget_that_is_gone_is_no_error() -> None:
    step = await collector(Scripted(), stopping="fixed", k_init=4, k_max=4, limits=RunLimits(rollouts=10))
    groups, stats = await step.collect(problems(5), step=0, version=0)
    assert stats.used == 10 == sum(len(group.samples) for group in groups)
    assert stats.refused == 5 - stats.groups
    groups, stats = await step.collect(problems(5), step=1, version=0)
    assert (groups, stats.groups, stats.refused, stats.used) == ([], 0, 5, 0)


async def test_a_step_run_again_opens_the_same_groups_and_draws_the_same() -> None:
    """A trainer that died before it closed: the same step grants nothing twice."""
    generator, allocator = Scripted(), Watched()
    step = await collector(generator, allocator, k_init=4)
    generator.held[2] = asyncio.Event()
    dying = asyncio.ensure_future(step.collect(problems(4), step=5, version=1))
    while not allocator.observed:  # noqa: ASYNC110 - the allocator's own record is the signal
        await asyncio.sleep(0)
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying
    generator.held.clear()
    groups, stats = await step.collect(problems(4), step=5, version=1)
    usage = (await allocator.get_run("run")).usage
    assert len(groups) == 4
    assert (usage.committed, usage.reserved, usage.overage) == (stats.used, 0, 0)


async def test_the_allocators_refusal_ends_the_step() -> None:
    class Gone(Watched):
        async def observe(self, run_id: str, request: ObserveRequest) -> ObserveAnswer:
            raise Unavailable(f"the allocator is gone, and {len(request.groups)} groups of {run_id} with it")

    step = await collector(Scripted(), Gone(), k_init=2)
    with pytest.raises(Unavailable):
        await step.collect(problems(3), step=0, version=0)


async def test_a_problem_twice_in_one_step_is_refused() -> None:
    step = await collector(Scripted())
    with pytest.raises(ValueError, match="once"):
        await step.collect(problems(1) * 2, step=0, version=0)


def test_ids_stay_within_bounds_and_distinct() -> None:
    assert group_id(12, "x") == "12-x"
    long = {group_id(12, "x" * 190 + str(tail)) for tail in range(20_000, 20_010)}
    assert len(long) == 10
    assert max(map(len, long)) <= 200


@given(st.integers(0, 2**31), st.text(max_size=20), st.integers(0, 5), st.integers(0, 5))
def test_seeds_follow_from_what_names_a_wave(seed: int, group: str, attempt: int, wave: int) -> None:
    assert wave_seed(seed, group, attempt, wave) == wave_seed(seed, group, attempt, wave)
    assert 0 <= wave_seed(seed, group, attempt, wave) < 2**62
    assert wave_seed(seed, group, attempt, wave) != wave_seed(seed, group, attempt, wave + 1)
    assert wave_seed(seed, group, attempt, wave) != wave_seed(seed, group, attempt + 1, wave)
