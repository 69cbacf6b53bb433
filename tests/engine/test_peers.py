"""Rules of other papers, chosen by name: what a run and `/decide` make of them."""

from __future__ import annotations

from typing import get_args

import pytest

from rollout_budget.engine.stateless import decide
from rollout_budget.wire import DecideGroup, DecideRequest, Estimator, RunLimits, Stopping, SuppliedPrior
from tests.engine.world import Desk


@pytest.mark.parametrize("stopping", get_args(Stopping))
@pytest.mark.parametrize("estimator", get_args(Estimator))
async def test_every_pair_serves_a_run_from_open_to_close(desk: Desk, estimator: str, stopping: str) -> None:
    """Waves until every group stops, within `k_max`; the ledger balances."""
    await desk.start(estimator=estimator, stopping=stopping, k_init=3, k_max=8)
    desk.priors.table = {"a": 0.1, "b": 0.5}
    grants = {group.group_id: group.grant for group in (await desk.open("a", "b")).groups}
    drawn = {name: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0][:grant] for name, grant in grants.items()}
    while True:
        decisions = await desk.observe(**drawn)
        if not any(decision.more for decision in decisions):
            break
        for decision in decisions:
            drawn[decision.group_id] += [0.0] * decision.more
    assert all(1 <= len(outcomes) <= 8 for outcomes in drawn.values())
    assert all(len(decision.advantages) == len(drawn[decision.group_id]) for decision in decisions)
    await desk.close(**{name: len(outcomes) for name, outcomes in drawn.items()})
    assert await desk.in_balance()


@pytest.mark.parametrize("stopping", get_args(Stopping))
@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_every_pair_answers_decide(estimator: str, stopping: str) -> None:
    """Outcomes in, advantages out, no more than the budget."""
    request = DecideRequest.model_validate(
        {
            "estimator": estimator,
            "stopping": stopping,
            "budget": 5,
            "groups": [
                DecideGroup(group_id="a", prior=SuppliedPrior(value=0.2, standard_error=0.1), outcomes=[1.0, 0.0]),
                DecideGroup(group_id="b", outcomes=[0.25]),
                DecideGroup(group_id="c"),
            ],
        }
    )
    answer = decide(request)
    assert [len(group.advantages) for group in answer.groups] == [2, 1, 0]
    assert sum(group.more for group in answer.groups) <= 5


async def test_dapo_names_the_groups_to_replace(desk: Desk) -> None:
    """A full group of equal outcomes stops with `no_signal`, one with both kinds with `k_max`."""
    await desk.start(estimator="leave_one_out", stopping="dapo", k_init=4, k_max=4)
    await desk.open("silent", "loud")
    silent, loud = await desk.observe(silent=[1.0] * 4, loud=[1.0, 1.0, 1.0, 0.0])
    assert (silent.reason, loud.reason) == ("no_signal", "k_max")
    assert silent.advantages == [0.0] * 4


async def test_reinforce_ada_stops_because_its_rule_is_met(desk: Desk) -> None:
    """One positive is enough; without one another round is drawn; the price plays no part."""
    await desk.start(stopping="reinforce_ada_positive", k_init=4, k_max=16, price=1000.0)
    await desk.open("solved", "not yet")
    answers = await desk.observe(**{"solved": [0.0, 0.0, 1.0, 0.0], "not yet": [0.0] * 4})
    assert [(answer.more, answer.reason) for answer in answers] == [(0, "rule_met"), (8, "worth_above_price")]


@pytest.mark.parametrize("stopping", ["vip", "knapsack"])
async def test_a_joint_wave_spends_its_average_where_it_is_worth_most(desk: Desk, stopping: str) -> None:
    """Four per group in all, most for the uncertain prompt; a limit cuts the least worthy."""
    await desk.start(stopping=stopping, k_init=4, k_max=16)
    desk.priors.table = {"hopeless": 0.001, "even": 0.4, "easy": 0.999}
    grants = {group.group_id: group.grant for group in (await desk.open("hopeless", "even", "easy")).groups}
    assert sum(grants.values()) == 12
    assert grants["even"] == 8 if stopping == "vip" else grants["even"] >= 7
    assert min(grants.values()) == 2


async def test_a_joint_wave_respects_a_limit(desk: Desk) -> None:
    """With fewer rollouts than the wave asks for, every group has two before the uncertain one has more."""
    await desk.start(stopping="vip", k_init=4, k_max=16, limits=RunLimits(rollouts=7))
    desk.priors.table = {"hopeless": 0.001, "even": 0.4, "easy": 0.999}
    grants = {group.group_id: group.grant for group in (await desk.open("hopeless", "even", "easy")).groups}
    assert grants == {"hopeless": 2, "even": 3, "easy": 2}
