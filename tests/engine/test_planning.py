"""Plans in the engine: lost transactions, retention, what is stored."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rollout_budget.engine.ids import fingerprint
from rollout_budget.engine.planning import PLANS_KEPT
from rollout_budget.errors import NotFound
from rollout_budget.wire import OpenGroup, OpenRequest, PlanCandidate, PlanRequest, SuppliedPrior
from tests.engine.world import RUN, TEAM, Desk, PowerCut

SECRET = "what nobody may read in a plan"


def request(plan_id: str = "plan", groups: int = 2) -> PlanRequest:
    candidates = [PlanCandidate(prompt_key=f"k{place}", prompt=SECRET) for place in range(8)]
    return PlanRequest(plan_id=plan_id, candidates=candidates, groups=groups)


@pytest.mark.parametrize(("fault", "stored"), [("before commit", False), ("after commit", True)])
async def test_a_lost_transaction_is_repeated_to_the_same_choice(fault: str, *, stored: bool) -> None:
    """Whether the plan was stored or only its answer was lost: the id fixes the draws, the record the answer."""
    undisturbed = Desk()
    await undisturbed.start()
    expected = await undisturbed.engine.plan(TEAM, RUN, request())
    desk = Desk()
    await desk.start()
    desk.store.faults = ["none", fault]
    with pytest.raises(PowerCut):
        await desk.engine.plan(TEAM, RUN, request())
    async with desk.store.inner.transaction() as transaction:
        assert bool(await transaction.plans(TEAM, RUN, ["plan"])) is stored
    assert await desk.engine.plan(TEAM, RUN, request()) == expected


async def test_old_plans_are_forgotten_and_say_so(desk: Desk) -> None:
    """The newest stay; a group that names a forgotten one is refused, one that was opened in time is not."""
    await desk.start()
    plans = [await desk.engine.plan(TEAM, RUN, request(f"plan {place}", 3)) for place in range(2)]
    early = OpenGroup(group_id="early", prompt_key=plans[0].prompts[0].prompt_key, plan_id="plan 0")
    opened = await desk.open(early)
    for place in range(2, PLANS_KEPT + 1):
        await desk.engine.plan(TEAM, RUN, request(f"plan {place}"))
    assert await desk.open(early) == opened
    with pytest.raises(NotFound, match="no plan 'plan 0' is kept"):
        await desk.open(OpenGroup(group_id="late", prompt_key=early.prompt_key, plan_id="plan 0"))
    kept = OpenGroup(group_id="kept", prompt_key=plans[1].prompts[0].prompt_key, plan_id="plan 1")
    assert (await desk.open(kept)).groups[0].importance_weight == plans[1].prompts[0].importance_weight


async def test_a_plan_holds_no_text(desk: Desk) -> None:
    """Keys and figures only; the group remembers by which plan it came."""
    await desk.start()
    plan = await desk.engine.plan(TEAM, RUN, request())
    async with desk.store.inner.transaction() as transaction:
        record = (await transaction.plans(TEAM, RUN, ["plan"]))["plan"]
    assert SECRET not in repr(record)
    await desk.open(OpenGroup(group_id="g", prompt_key=plan.prompts[0].prompt_key, plan_id="plan"))
    assert (await desk.record("g")).plan_id == "plan"


async def test_a_cut_first_wave_is_what_the_group_gets_beside_groups_without_a_plan(desk: Desk) -> None:
    await desk.start()
    candidates = [PlanCandidate(prompt_key="k", prior=SuppliedPrior(value=0.5))]
    await desk.engine.plan(TEAM, RUN, PlanRequest(plan_id="plan", candidates=candidates, rollouts=1))
    groups = [OpenGroup(group_id="g", prompt_key="k", plan_id="plan"), OpenGroup(group_id="h", prompt_key="h")]
    answer = await desk.engine.open(TEAM, RUN, OpenRequest(groups=groups))
    assert [group.grant for group in answer.groups] == [1, 4]


def test_the_plan_is_part_of_what_a_group_was_opened_with() -> None:
    """Another plan is another body; none is what it was before there were plans."""
    group = OpenGroup(group_id="g", prompt_key="k")
    planned = OpenGroup(group_id="g", prompt_key="k", plan_id="p")
    assert fingerprint(group) != fingerprint(planned)
    assert fingerprint(group) == fingerprint(OpenGroup.model_validate({"group_id": "g", "prompt_key": "k"}))


@pytest.mark.parametrize(
    "change",
    [
        {"groups": None},
        {"rollouts": 4},
        {"groups": 0},
        {"exploration": 0.0},
        {"exploration": 1.5},
        {"exploration": float("nan")},
        {"candidates": []},
        {"candidates": [{"prompt_key": "k"}, {"prompt_key": "k"}]},
        {"mode": "best"},
    ],
)
def test_requests_that_mean_nothing_are_refused(change: dict[str, object]) -> None:
    body = {"plan_id": "p", "candidates": [{"prompt_key": "k"}], "groups": 1}
    PlanRequest.model_validate(body)
    with pytest.raises(ValidationError):
        PlanRequest.model_validate(body | change)
