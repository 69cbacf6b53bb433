"""Plans while the allocator is away: a uniform choice with the chances of one, and weights that outlast an outage."""

from __future__ import annotations

import pytest

from rollout_budget.engine.planning import PLANS_KEPT
from rollout_budget.errors import NotFound
from rollout_budget.wire import (
    BaselinesRequest,
    OpenGroup,
    OpenRequest,
    PlanCandidate,
    PlanRequest,
    SuppliedPrior,
)
from tests.client.service import House
from tests.client.steps import SPEC, booked, closing, observing

KEYS = [f"p{place}" for place in range(10)]
REQUEST = PlanRequest(plan_id="plan", candidates=[PlanCandidate(prompt_key=key) for key in KEYS], groups=4)


def opening(key: str, plan_id: str = "plan") -> OpenRequest:
    return OpenRequest(groups=[OpenGroup(group_id="g", prompt_key=key, plan_id=plan_id)])


async def test_without_the_allocator_the_choice_is_uniform_and_counted() -> None:
    """Every chance is n / N, every weight 1; the same id gives the same answer, also when the service is back."""
    house = House()
    await house.allocator.create_run(SPEC)
    house.service.die()
    plan = await house.allocator.plan(SPEC.run_id, REQUEST)
    assert (plan.degraded, house.allocator.fallback_total, len(plan.prompts)) == (True, 1, 4)
    assert {(prompt.propensity, prompt.importance_weight) for prompt in plan.prompts} == {(0.4, 1.0)}
    assert plan.detail == house.allocator.fallback_reason
    house.service.return_()
    await house.allocator.flush()
    assert await house.allocator.plan(SPEC.run_id, REQUEST) == plan


async def test_a_group_of_a_plan_made_here_opens_at_the_service() -> None:
    """It never heard of the plan and need not: the group weighs 1, as the choice was uniform."""
    house = House()
    await house.allocator.create_run(SPEC)
    house.service.die()
    plan = await house.allocator.plan(SPEC.run_id, REQUEST)
    house.service.return_()
    await house.allocator.flush()
    for _ in range(2):
        opened = await house.allocator.open(SPEC.run_id, opening(plan.prompts[0].prompt_key))
        assert (opened.groups[0].importance_weight, opened.degraded) == (1.0, False)
    await house.allocator.close(SPEC.run_id, closing(g=4))
    assert await booked(house) == (4, 0)


async def test_weights_of_the_services_plan_hold_while_it_is_away() -> None:
    """Planned there, opened and observed here: first wave and weight are the plan's, and the service learns of it later."""
    house = House()
    await house.allocator.create_run(SPEC)
    plan = await house.allocator.plan(SPEC.run_id, REQUEST)
    assert not plan.degraded
    prompt = plan.prompts[0]
    house.service.die()
    opened = (await house.allocator.open(SPEC.run_id, opening(prompt.prompt_key))).groups[0]
    assert (opened.importance_weight, opened.grant) == (prompt.importance_weight, prompt.first_wave)
    await house.allocator.observe(SPEC.run_id, observing(g=4))
    answer = await house.allocator.baselines(SPEC.run_id, BaselinesRequest(group_ids=["g"]))
    assert answer.groups[0].importance_weight == prompt.importance_weight
    await house.allocator.close(SPEC.run_id, closing(g=4))
    house.service.return_()
    await house.allocator.flush()
    assert await booked(house) == (4, 0)


async def test_a_group_whose_plan_is_gone_is_opened_all_the_same() -> None:
    """A step that waited while others planned 64 times and more: it goes on, with weight 1, and repeats are the same."""
    house = House()
    await house.allocator.create_run(SPEC)
    plans = [await house.allocator.plan(SPEC.run_id, REQUEST)]
    for number in range(PLANS_KEPT + 1):
        again = REQUEST.model_copy(update={"plan_id": f"plan {number}"})
        plans.append(await house.allocator.plan(SPEC.run_id, again))
    late = opening(plans[0].prompts[0].prompt_key)
    opened = await house.allocator.open(SPEC.run_id, late)
    assert (opened.groups[0].importance_weight, opened.groups[0].grant) == (1.0, 4)
    assert await house.allocator.open(SPEC.run_id, late) == opened
    await house.allocator.close(SPEC.run_id, closing(g=4))
    assert await booked(house) == (4, 0)


async def test_what_is_the_programs_own_mistake_is_raised() -> None:
    """A plan that neither the service nor this process knows."""
    house = House()
    await house.allocator.create_run(SPEC)
    with pytest.raises(NotFound, match="no plan 'other' is kept"):
        await house.allocator.open(SPEC.run_id, opening("p0", "other"))


async def test_a_plan_made_here_keeps_its_budget_when_its_groups_open_here() -> None:
    """First waves that were cut to the plan's rollouts are granted as cut."""
    house = House()
    await house.allocator.create_run(SPEC.model_copy(update={"k_init": "auto", "price": None}))
    house.service.die()
    priors = {key: SuppliedPrior(value=float(place % 2) / 2) for place, key in enumerate(KEYS)}
    candidates = [PlanCandidate(prompt_key=key, prior=prior) for key, prior in priors.items()]
    free = cut = 0
    for place in range(8):
        plan_id = f"plan {place}"
        plan = await house.allocator.plan(SPEC.run_id, PlanRequest(plan_id=plan_id, candidates=candidates, rollouts=11))
        keys = [prompt.prompt_key for prompt in plan.prompts]
        groups = [
            OpenGroup(group_id=f"{place} {key}", prompt_key=key, prior=priors[key], plan_id=plan_id) for key in keys
        ]
        opened = await house.allocator.open(SPEC.run_id, OpenRequest(groups=groups))
        assert [group.grant for group in opened.groups] == [prompt.first_wave for prompt in plan.prompts]
        alone = [group.model_copy(update={"group_id": f"{group.group_id} alone", "plan_id": None}) for group in groups]
        unplanned = await house.allocator.open(SPEC.run_id, OpenRequest(groups=alone))
        cut += sum(group.grant for group in opened.groups) < sum(group.grant for group in unplanned.groups)
        free += sum(group.grant for group in opened.groups) > 11
    assert (free, cut > 0) == (0, True)
