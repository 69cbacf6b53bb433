"""What every allocator makes of a plan, and what every store keeps of one."""

from __future__ import annotations

import asyncio
import math

import pytest

from rollout_budget.client.base import Allocator
from rollout_budget.engine.ports import Store
from rollout_budget.engine.records import PlanRecord, RunRecord
from rollout_budget.errors import Conflict, InvalidInput, NotFound, RunFinished, Unavailable
from rollout_budget.reliability import Reliability
from rollout_budget.wire import (
    BaselinesRequest,
    OpenGroup,
    OpenRequest,
    PlanAnswer,
    PlanCandidate,
    PlannedPrompt,
    PlanRequest,
    Range,
    RunSpec,
    SuppliedPrior,
)
from tests.conformance.allocators import start
from tests.conformance.implementations import World

KEYS = [f"p{place}" for place in range(12)]


def request(plan_id: str = "plan", *, groups: int | None = 4, rollouts: int | None = None) -> PlanRequest:
    """Return a plan among `KEYS`."""
    candidates = [PlanCandidate(prompt_key=key, prompt=f"text of {key}", policy_version=3) for key in KEYS]
    return PlanRequest(plan_id=plan_id, candidates=candidates, groups=groups, rollouts=rollouts)


def opening(plan: PlanAnswer, *keys: str) -> OpenRequest:
    """Open groups of some prompts, named like them."""
    groups = [OpenGroup(group_id=key, prompt_key=key, policy_version=3, plan_id=plan.plan_id) for key in keys]
    return OpenRequest(groups=groups)


async def test_a_plan_says_what_to_open_and_how_likely_that_was(allocator: Allocator, world: World) -> None:
    """In the order of the request, each with a chance of at least e n / N and the weight that follows from it."""
    world.priors.table = {key: place / 12 for place, key in enumerate(KEYS)}
    await start(allocator)
    plan = await allocator.plan("run", request())
    chosen = [prompt.prompt_key for prompt in plan.prompts]
    assert (plan.plan_id, plan.candidates, plan.degraded) == ("plan", 12, False)
    assert len(chosen) == 4
    assert sorted(chosen, key=KEYS.index) == chosen
    for prompt in plan.prompts:
        assert 4 / 12 / 8 <= prompt.propensity <= 1
        assert prompt.importance_weight == pytest.approx(4 / 12 / prompt.propensity)
        assert (prompt.first_wave, prompt.prior_source) == (4, "prior_service")
        assert prompt.prior == world.priors.table[prompt.prompt_key]
    assert world.priors.asked == [("p", 3, tuple(KEYS))]
    assert world.priors.texts["p0"] == "text of p0"


async def test_a_plan_asked_for_again_is_answered_the_same(allocator: Allocator, world: World) -> None:
    """Also after the priors have changed, and at the same time; another body is refused. Plans end with their run."""
    await start(allocator)
    first, twin = await asyncio.gather(allocator.plan("run", request()), allocator.plan("run", request()))
    world.priors.default = 0.01
    assert first == twin == await allocator.plan("run", request())
    with pytest.raises(Conflict, match="plan 'plan'"):
        await allocator.plan("run", request(groups=5))
    await allocator.finish_run("run")
    for plan_id in ("plan", "late"):
        with pytest.raises(RunFinished):
            await allocator.plan("run", request(plan_id))


async def test_groups_carry_the_weight_of_their_plan(allocator: Allocator) -> None:
    """From plan to open to baselines; a group without a plan weighs 1."""
    await start(allocator)
    plan = await allocator.plan("run", request())
    prompt = plan.prompts[0]
    opened = (await allocator.open("run", opening(plan, prompt.prompt_key))).groups[0]
    assert (opened.importance_weight, opened.grant) == (prompt.importance_weight, prompt.first_wave)
    assert (await allocator.open("run", opening(plan, prompt.prompt_key))).groups == [opened]
    await allocator.open("run", OpenRequest(groups=[OpenGroup(group_id="alone", prompt_key="p0")]))
    answer = await allocator.baselines("run", BaselinesRequest(group_ids=[prompt.prompt_key, "alone"]))
    assert [group.importance_weight for group in answer.groups] == [prompt.importance_weight, 1.0]


async def test_a_group_must_be_one_that_its_plan_chose(allocator: Allocator) -> None:
    """A chance exists for nothing else; nothing is opened."""
    await start(allocator)
    plan = await allocator.plan("run", request())
    chosen = {prompt.prompt_key for prompt in plan.prompts}
    other = next(key for key in KEYS if key not in chosen)
    with pytest.raises(InvalidInput, match="did not choose"):
        await allocator.open("run", opening(plan, *chosen, other))
    with pytest.raises(NotFound, match="no plan 'unknown' is kept"):
        await allocator.open("run", opening(plan.model_copy(update={"plan_id": "unknown"}), *chosen))
    assert (await allocator.get_run("run")).usage.granted == 0


async def test_a_budget_of_rollouts_is_what_first_waves_cost(allocator: Allocator) -> None:
    """Ten rollouts pay for two waves of four; three pay for one that is cut, and the group gets no more either."""
    await start(allocator)
    assert [p.first_wave for p in (await allocator.plan("run", request(groups=None, rollouts=10))).prompts] == [4, 4]
    cut = await allocator.plan("run", request("cut", groups=None, rollouts=3))
    assert [prompt.first_wave for prompt in cut.prompts] == [3]
    opened = await allocator.open("run", opening(cut, cut.prompts[0].prompt_key))
    assert opened.groups[0].grant == 3


async def test_without_its_prior_source_a_plan_is_degraded_and_nearly_uniform(
    allocator: Allocator, world: World
) -> None:
    """All candidates look alike: no chance is far from n / N."""
    world.priors.failure = Unavailable("nobody there")
    await start(allocator)
    plan = await allocator.plan("run", request())
    assert plan.degraded
    assert "nobody there" in plan.detail
    assert {prompt.prior_source for prompt in plan.prompts} == {"running_mean"}
    assert all(abs(prompt.propensity - 4 / 12) < 0.08 for prompt in plan.prompts)


async def test_priors_of_the_caller_are_on_the_declared_scale(allocator: Allocator, world: World) -> None:
    """The source is not asked; signal is a variance on the square of the scale; a prior outside is named."""
    await start(allocator, outcome_range=Range(low=-1.0, high=1.0))
    candidates = [PlanCandidate(prompt_key=key, prior=SuppliedPrior(value=0.0, standard_error=0.2)) for key in KEYS]
    plan = await allocator.plan("run", PlanRequest(plan_id="plan", candidates=candidates, groups=3))
    for prompt in plan.prompts:
        assert (prompt.prior, prompt.prior_source) == (0.0, "caller")
        assert prompt.standard_error == pytest.approx(0.2)
        assert 0.25 < prompt.expected_signal <= 1.0
    assert world.priors.asked == []
    outside = PlanCandidate(prompt_key="x", prior=SuppliedPrior(value=1.5))
    with pytest.raises(InvalidInput, match=r"prompt 'x': prior 1\.5"):
        await allocator.plan("run", PlanRequest(plan_id="other", candidates=[outside], groups=1))


async def test_a_plan_of_an_unknown_run_is_refused(allocator: Allocator) -> None:
    """By the service as not found, by a client with a journal because this process never declared it."""
    with pytest.raises((NotFound, InvalidInput), match="nowhere"):
        await allocator.plan("nowhere", request())


def kept(plan_id: str) -> PlanRecord:
    """Return a plan to keep, with figures that only an exact store gives back."""
    prompt = PlannedPrompt(
        prompt_key="k",
        propensity=0.1 + 0.2,
        importance_weight=math.pi,
        first_wave=3,
        prior=0.25,
        standard_error=None,
        prior_source="caller",
        expected_signal=0.1,
    )
    return PlanRecord(plan_id, f"print of {plan_id}", PlanAnswer(plan_id=plan_id, candidates=9, prompts=[prompt]))


async def test_a_store_keeps_the_newest_plans_of_each_run(store: Store) -> None:
    """Bit by bit, by team and run, and no more than it is told to."""
    async with store.transaction() as transaction:
        for run_id in ("run", "other"):
            await transaction.add_run(RunRecord("team", RunSpec(run_id=run_id, policy="p"), Reliability()))
        await transaction.add_plan("team", "other", kept("z"), 2)
        for plan_id in ("c", "a", "b"):
            await transaction.add_plan("team", "run", kept(plan_id), 2)
    async with store.transaction() as transaction:
        assert await transaction.plans("team", "run", ["a", "b", "c", "z"]) == {"a": kept("a"), "b": kept("b")}
        assert await transaction.plans("team", "other", ["a", "z"]) == {"z": kept("z")}
        assert await transaction.plans("neighbour", "run", ["a"]) == {}
        assert await transaction.plans("team", "run", []) == {}


async def test_g09_a_plan_vanishes_with_its_transaction(store: Store) -> None:
    async def interrupted() -> None:
        async with store.transaction() as transaction:
            await transaction.add_plan("team", "run", kept("a"), 2)
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await interrupted()
    async with store.transaction() as transaction:
        assert await transaction.plans("team", "run", ["a"]) == {}
