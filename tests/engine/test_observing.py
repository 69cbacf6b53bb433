"""What is learned, when, from what; and what a group may draw next."""

from __future__ import annotations

import pytest

from rollout_budget.errors import Conflict
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.wire import CloseGroup, ObserveGroup, ObserveRequest, RunLimits, RunPatch
from tests.engine.world import RUN, TEAM, Desk


async def test_a_group_teaches_once_when_it_closes(desk: Desk) -> None:
    """Its first report calibrates, as later waves depend on it; all its outcomes shape the law of rates."""
    desk.priors.table = {"g": 0.25, "h": 0.75}
    await desk.start()
    await desk.open("g", "h")
    await desk.observe(g=[1.0, 0.0], h=[1.0, 1.0, 0.0])
    await desk.observe(g=[1.0, 0.0, 0.0, 0.0], h=[1.0, 1.0, 0.0])
    await desk.observe(g=[1.0, 0.0])
    assert (await desk.run()).reliability == Reliability()
    await desk.close(g=4, h=3)
    first = Groups.of([0.25, 0.75], [[1.0, 0.0], [1.0, 1.0, 0.0]])
    whole = Groups.of([0.25, 0.75], [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    expected = Reliability().calibrate(first).learn(whole)
    assert (await desk.run()).reliability == expected
    await desk.close(g=4, h=3)
    assert (await desk.run()).reliability == expected


async def test_a_group_that_closes_unreported_teaches_all_the_same(desk: Desk) -> None:
    """Within its first wave it calibrates too; one that drew more without asking shapes the law alone."""
    desk.priors.table = {"g": 0.25, "h": 0.75}
    await desk.start()
    await desk.open("g", "h")
    few, many = [1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0, 1.0]
    await desk.close(CloseGroup(group_id="g", used=3, outcomes=few), CloseGroup(group_id="h", used=5, outcomes=many))
    expected = Reliability().calibrate(Groups.of([0.25], [few])).learn(Groups.of([0.25, 0.75], [few, many]))
    assert (await desk.run()).reliability == expected


async def test_a_report_without_outcomes_teaches_nothing(desk: Desk) -> None:
    """All its rollouts failed: the group draws what it holds, and teaches when it has outcomes."""
    await desk.start()
    await desk.open("g")
    first = (await desk.observe(g=[]))[0]
    assert (first.action, first.more, first.reason) == ("more", 4, "first_wave")
    assert (await desk.run()).reliability == Reliability()
    await desk.observe(g=[1.0])
    await desk.close(g=1)
    assert (await desk.run()).reliability.groups == 1


async def test_no_group_sees_itself_in_the_pooled_figures(desk: Desk) -> None:
    """Whoever else is open, and whatever they drew: decided with what was known before, at later reports too."""
    decided, later = [], []
    for others in ({}, {"x": [0.0] * 4, "y": [1.0] * 4}):
        desk = Desk()
        await desk.start()
        await desk.open("g", *others)
        decided.append((await desk.observe(g=[1.0, 0.0, 0.0, 0.0], **others))[0])
        later.append((await desk.observe(g=[1.0, 0.0, 0.0, 0.0, 1.0, 1.0]))[0])
    assert decided[0] == decided[1]
    assert later[0] == later[1]
    await desk.close(g=6, x=4, y=4)
    assert (await desk.run()).reliability.groups == 3


async def test_rollouts_that_were_not_drawn_are_used_first(desk: Desk) -> None:
    """A generation failed: three of four came. The next wave takes the fourth before it asks the ledger."""
    await desk.start(stopping="fixed", k_max=6)
    opened = await desk.open("g")
    assert opened.groups[0].grant == 6
    decision = (await desk.observe(g=[1.0, 0.0, 1.0]))[0]
    assert (decision.more, (await desk.record("g")).grants) == (3, (6,))
    assert (await desk.engine.budget(TEAM)).usage.reserved == 6


async def test_what_is_still_held_may_be_drawn_when_the_budget_is_gone(desk: Desk) -> None:
    """Half the wave failed and nothing is left: the held half is no new spending."""
    await desk.start(limits=RunLimits(rollouts=4))
    await desk.open("g")
    decision = (await desk.observe(g=[1.0, 0.0]))[0]
    assert (decision.action, decision.more) == ("more", 2)
    assert (await desk.record("g")).grants == (4, 0)


async def test_drawing_more_than_granted_is_decided_on_and_booked(desk: Desk) -> None:
    """All outcomes count in the baseline; nothing more beyond k_max; the surplus is overage."""
    await desk.start(k_max=8)
    await desk.open("g")
    decision = (await desk.observe(g=[1.0, 0.0] * 5))[0]
    assert (decision.action, decision.reason, decision.ingredients.k) == ("stop", "k_max", 10)
    assert len(decision.advantages) == 10
    assert (await desk.close(g=10))[0].overage == 6


async def test_a_stop_says_why(desk: Desk) -> None:
    """Not worth its price, as large as allowed, or no budget."""
    await desk.start(price=0.002, limits=RunLimits(rollouts=12))
    await desk.open("certain", "large", "poor")
    certain, large, poor = await desk.observe(certain=[0.0] * 8, large=[1.0, 0.0] * 8, poor=[1.0, 0.0])
    assert (certain.reason, large.reason) == ("worth_below_price", "k_max")
    assert (poor.more, poor.reason) == (2, "worth_above_price")
    assert (await desk.observe(poor=[1.0, 0.0] * 2))[0].reason == "budget_exhausted"


async def test_only_the_first_wave_carries_advantages_if_asked(desk: Desk) -> None:
    """The first samples sent; their baselines do not see later waves; later ones weigh nothing."""
    await desk.start(advantage_samples="first_wave", k_init=2)
    await desk.open("g")
    first = (await desk.observe(g=[1.0, 0.0]))[0]
    assert first.more > 0
    later = (await desk.observe(g=[1.0, 0.0, 1.0, 1.0]))[0]
    assert later.advantages[2:] == [0.0, 0.0]
    assert 0.0 not in later.advantages[:2]
    assert later.baseline > first.baseline


async def test_first_wave_samples_keep_their_place(desk: Desk) -> None:
    """Swapped among themselves they move with their baselines; swapped with later ones they are other samples."""
    await desk.start(advantage_samples="first_wave", k_init=2)
    await desk.open("g")
    await desk.observe(g=[1.0, 0.0])
    later = (await desk.observe(g=[1.0, 0.0, 1.0, 1.0]))[0]
    swapped = (await desk.observe(g=[0.0, 1.0, 1.0, 1.0]))[0]
    assert swapped.advantages == [later.advantages[1], later.advantages[0], 0.0, 0.0]
    for changed in ([1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0, 1.0]):
        with pytest.raises(Conflict):
            await desk.observe(g=changed)


async def test_a_repeated_report_uses_the_rewards_it_brings(desk: Desk) -> None:
    """Baselines are of the outcomes; advantages are of whatever the loss uses."""
    await desk.start()
    await desk.open("g")
    plain = (await desk.observe(g=[1.0, 0.0]))[0]
    shaped = ObserveGroup(group_id="g", outcomes=[1.0, 0.0], rewards=[10.0, 20.0])
    again = (await desk.engine.observe(TEAM, RUN, ObserveRequest(groups=[shaped]))).groups[0]
    assert again.baselines == plain.baselines
    assert again.advantages == [10.0 - plain.baselines[0], 20.0 - plain.baselines[1]]


async def test_a_late_report_about_a_closed_group_changes_nothing(desk: Desk) -> None:
    """More outcomes than were known at its close: they get baselines, no rollouts, and are not kept."""
    await desk.start()
    await desk.open("g", "never observed")
    await desk.observe(g=[1.0, 0.0])
    await desk.close(g=2)
    await desk.close(**{"never observed": 0})
    before = [await desk.record("g"), await desk.run()]
    late = (await desk.observe(g=[1.0, 0.0, 1.0]))[0]
    assert (late.action, late.reason, len(late.advantages)) == ("stop", "closed", 3)
    assert (await desk.observe(**{"never observed": [1.0]}))[0].reason == "closed"
    assert [await desk.record("g"), await desk.run()] == before


async def test_a_price_that_changes_holds_for_decisions_to_come(desk: Desk) -> None:
    """Decisions that were made stay."""
    await desk.start()
    await desk.open("g", "h")
    asked = (await desk.observe(g=[1.0, 0.0]))[0]
    assert asked.action == "more"
    await desk.engine.patch_run(TEAM, RUN, RunPatch(price=1.0))
    assert (await desk.observe(g=[1.0, 0.0]))[0] == asked
    assert (await desk.observe(h=[1.0, 0.0, 1.0, 0.0]))[0].reason == "worth_below_price"
