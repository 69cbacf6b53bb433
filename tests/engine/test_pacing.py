"""Pacing through the engine: one price a step, counted once, by hand wins, unseen by runs without it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rollout_budget.engine.records import RunRecord
from rollout_budget.errors import InvalidInput
from rollout_budget.wire import CloseGroup, OpenGroup, PacingSettings, RunLimits, RunPatch, RunSpec
from tests.engine.world import RUN, TEAM, Desk

SHIPPED = 1 / 256
"""The shipped price on the range {0, 1}."""


async def stored(desk: Desk) -> RunRecord:
    async with desk.store.transaction() as transaction:
        return await transaction.run(TEAM, RUN)


async def step(desk: Desk, number: int, groups: int = 8) -> None:
    """One training step: every group draws what it is granted, half of it succeeds."""
    names = [f"s{number}g{place}" for place in range(groups)]
    opened = await desk.open(*(OpenGroup(group_id=name, prompt_key=name, step=number) for name in names))
    sizes = {group.group_id: group.grant for group in opened.groups}
    while True:
        decided = await desk.observe(**{name: [float(i % 2) for i in range(size)] for name, size in sizes.items()})
        more = {decision.group_id: decision.more for decision in decided}
        sizes = {name: size + more[name] for name, size in sizes.items()}
        if not any(more.values()):
            break
    await desk.close(*(CloseGroup(group_id=name, used=size) for name, size in sizes.items()))


async def price(desk: Desk) -> float:
    found = (await desk.engine.get_run(TEAM, RUN)).price
    assert found is not None
    return found


async def start(desk: Desk, rollouts: int, steps: int = 10, **settings: object) -> None:
    limits = {"rollouts": rollouts}
    await desk.start(**{"k_init": "auto", "limits": limits, "pacing": {"steps": steps}, **settings})


async def test_the_price_rises_where_money_is_short_and_falls_where_it_is_not(desk: Desk) -> None:
    """The first step has the shipped price; the second the solved one."""
    await start(desk, 100)
    assert await price(desk) == pytest.approx(SHIPPED)
    await step(desk, 0)
    assert await price(desk) == pytest.approx(SHIPPED)
    await desk.open(OpenGroup(group_id="next", prompt_key="next", step=1))
    assert await price(desk) > SHIPPED


async def test_a_run_with_plenty_pays_more_for_exactness(desk: Desk) -> None:
    await start(desk, 100_000)
    await step(desk, 0)
    await desk.open(OpenGroup(group_id="next", prompt_key="next", step=1))
    assert await price(desk) == pytest.approx(SHIPPED / 4.0)


async def test_a_budget_of_its_own_is_spread_instead_of_what_is_left(desk: Desk) -> None:
    await start(desk, 100_000, pacing={"steps": 10, "budget": 100})
    await step(desk, 0)
    await desk.open(OpenGroup(group_id="next", prompt_key="next", step=1))
    assert await price(desk) > SHIPPED


async def test_one_price_holds_for_a_whole_step(desk: Desk) -> None:
    """Late groups of the step before included; only a higher number begins a step."""
    await start(desk, 400)
    await step(desk, 0)
    await desk.open(OpenGroup(group_id="a", prompt_key="a", step=1))
    before = await price(desk)
    await desk.close(a=1)
    await desk.open(OpenGroup(group_id="b", prompt_key="b", step=1), OpenGroup(group_id="c", prompt_key="c", step=0))
    assert await price(desk) == before


async def test_g03_a_repeated_request_counts_nothing(desk: Desk) -> None:
    await start(desk, 400)
    group = OpenGroup(group_id="a", prompt_key="a", step=3)
    await desk.open(group)
    opened = await stored(desk)
    await desk.open(group)
    assert await stored(desk) == opened
    await desk.observe(a=[1.0])
    await desk.close(a=1)
    closed = await stored(desk)
    assert closed.pacing is not None
    assert closed.pacing.closed == 1.0
    await desk.close(a=1)
    assert await stored(desk) == closed


async def test_a_price_by_hand_wins_until_pacing_is_asked_for_again(desk: Desk) -> None:
    await start(desk, 100)
    await step(desk, 0)
    await step(desk, 1)
    paced = await price(desk)
    assert (await desk.engine.patch_run(TEAM, RUN, RunPatch(price=0.5))).price == pytest.approx(0.5)
    await step(desk, 2)
    assert await price(desk) == pytest.approx(0.5)
    again = await desk.engine.patch_run(TEAM, RUN, RunPatch(pacing=PacingSettings(steps=20)))
    assert again.spec.price is None
    assert again.price is not None
    assert paced / 16 < again.price < paced * 16


async def test_steps_are_policy_versions_where_groups_name_none(desk: Desk) -> None:
    await start(desk, 100)
    await desk.open(OpenGroup(group_id="a", prompt_key="a", policy_version=7))
    found = (await stored(desk)).pacing
    assert found is not None
    assert (found.first_step, found.step, found.opening) == (7, 7, 1)


async def test_a_run_goes_on_past_its_last_step(desk: Desk) -> None:
    """What is left is then for the step at hand; nothing fails when it is gone."""
    await start(desk, 60, steps=2)
    for number in range(5):
        await step(desk, number, groups=4)
    assert (await desk.engine.get_run(TEAM, RUN)).usage.committed <= 60


async def test_g19_a_run_without_pacing_is_stored_as_before(desk: Desk) -> None:
    """The release before refuses unknown fields."""
    await desk.start()
    await step(desk, 0)
    found = await stored(desk)
    assert found.pacing is None
    assert "pacing" not in found.spec.model_dump_json()
    assert "pacing" not in RunPatch(limits=RunLimits()).model_dump_json()


async def test_a_rule_without_a_price_cannot_be_paced(desk: Desk) -> None:
    with pytest.raises(ValidationError, match="use one of posterior_variance, osla"):
        RunSpec.model_validate({"run_id": "r", "policy": "p", "stopping": "fixed", "pacing": {"steps": 3}})
    await desk.start(stopping="fixed")
    with pytest.raises(InvalidInput, match="use one of"):
        await desk.engine.patch_run(TEAM, RUN, RunPatch(pacing=PacingSettings(steps=3)))
