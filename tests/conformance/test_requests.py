"""Repeated, changed and impossible requests, to every allocator: G3, G4, bad input, what is not there."""

from __future__ import annotations

from itertools import permutations

import pytest

from rollout_budget.client.base import Allocator
from rollout_budget.errors import Conflict, InvalidInput, NotFound
from rollout_budget.wire import (
    BaselinesRequest,
    CloseGroup,
    CloseRequest,
    OpenGroup,
    OpenRequest,
    RunLimits,
    RunPatch,
    RunSpec,
    SuppliedPrior,
)
from tests.conformance.allocators import close, observe, open_groups, start


@pytest.mark.parametrize("copies", range(1, 6))
async def test_g03_requests_repeated_and_late_have_one_effect(allocator: Allocator, copies: int) -> None:
    """Each request up to five times, with duplicates of earlier ones coming in after later ones."""
    await start(allocator)
    first = {"g": [1.0, 0.0, 1.0, 0.0], "h": [0.0, 0.0, 0.0, 1.0]}
    for _ in range(copies):
        await start(allocator)
        opened = await open_groups(allocator, "g", "h")
    early = [await observe(allocator, **first) for _ in range(copies)]
    assert all(answer == early[0] for answer in early)
    later = {
        name: values + [1.0] * decision.more for (name, values), decision in zip(first.items(), early[0], strict=True)
    }
    late = [await observe(allocator, **later) for _ in range(copies)]
    assert all(answer == late[0] for answer in late)
    assert await observe(allocator, **first) == [
        old if one.ingredients.k == 4 else one for old, one in zip(early[0], late[0], strict=True)
    ]
    assert await open_groups(allocator, "g", "h") == opened
    used = {name: len(values) for name, values in later.items()}
    held = (await allocator.get_run("run")).usage.granted
    closings = [await close(allocator, **used) for _ in range(copies)]
    assert all(answer == closings[0] for answer in closings)
    assert await observe(allocator, **later) == late[0]
    usage = (await allocator.get_run("run")).usage
    assert (usage.granted, usage.committed, usage.groups_closed) == (held, sum(used.values()), 2)
    assert (await allocator.get_run("run")).prior.groups == 2


async def test_g03_the_order_of_outcomes_does_not_matter(allocator: Allocator) -> None:
    """Any order of the same outcomes gets the same decision, baselines moved with their samples."""
    await start(allocator)
    await open_groups(allocator, "g")
    outcomes = [1.0, 0.0, 0.25]
    answer = (await observe(allocator, g=outcomes))[0]
    of_outcome = dict(zip(outcomes, zip(answer.baselines, answer.advantages, strict=True), strict=True))
    for order in permutations(outcomes):
        again = (await observe(allocator, g=list(order)))[0]
        assert list(zip(again.baselines, again.advantages, strict=True)) == [of_outcome[value] for value in order]
        assert again.model_copy(update={"baselines": [], "advantages": []}) == answer.model_copy(
            update={"baselines": [], "advantages": []}
        )


MUTATIONS = [
    {"prompt_key": "other"},
    {"prompt": "a text"},
    {"prior": SuppliedPrior(value=0.5)},
    {"policy": "q"},
    {"policy_version": 1},
    {"step": 2},
    {"step": None},
]


@pytest.mark.parametrize("change", MUTATIONS, ids=str)
async def test_g04_a_group_opened_with_another_body_is_refused(allocator: Allocator, change: dict[str, object]) -> None:
    """Nothing is stored for any group of the batch."""
    await start(allocator)
    await open_groups(allocator, "g")
    group = OpenGroup(group_id="g", prompt_key="g", step=1)
    mutated = OpenGroup.model_validate(group.model_dump() | change)
    with pytest.raises(Conflict, match="'g'"):
        await allocator.open("run", OpenRequest(groups=[OpenGroup(group_id="new", prompt_key="k"), mutated]))
    with pytest.raises(NotFound, match="'new'"):
        await observe(allocator, new=[1.0])
    assert (await allocator.get_run("run")).usage.granted == 4


async def test_g04_a_run_declared_with_another_body_is_refused(allocator: Allocator) -> None:
    """The same body is answered with the run as it stands, patches included; another body is a conflict."""
    await start(allocator)
    await allocator.patch_run("run", RunPatch(limits=RunLimits(rollouts=3)))
    again = await allocator.create_run(RunSpec(run_id="run", policy="p", k_init=4))
    assert again.spec.limits.rollouts == 3
    assert (await open_groups(allocator, "g")).groups[0].grant == 3
    for other in ({"policy": "q"}, {"limits": RunLimits(rollouts=3)}, {"k_max": 8}):
        with pytest.raises(Conflict):
            await start(allocator, **other)


@pytest.mark.parametrize("changed", [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0], [1.0, 0.5, 0.0, 0.0]])
async def test_g04_reported_outcomes_stay(allocator: Allocator, changed: list[float]) -> None:
    """As many others, or more without the old ones: a conflict, and nothing stored for the rest of the batch."""
    await start(allocator)
    await open_groups(allocator, "g", "h")
    before = (await observe(allocator, g=[1.0, 1.0, 0.0]))[0]
    with pytest.raises(Conflict, match="'g'"):
        await observe(allocator, h=[1.0], g=changed)
    found = (await allocator.baselines("run", BaselinesRequest(group_ids=["g", "h"]))).groups
    assert (found[0].baselines, found[1].baselines) == (before.baselines, [])
    await close(allocator, g=3, h=1)
    assert (await allocator.get_run("run")).prior.groups == 1


async def test_g04_a_group_closed_with_another_count_is_refused(allocator: Allocator) -> None:
    """The first close stands."""
    await start(allocator)
    await open_groups(allocator, "g", "h")
    assert await close(allocator, g=3) == [(3, 1, 0)]
    with pytest.raises(Conflict, match="'g'"):
        await close(allocator, h=2, g=4)
    assert (await allocator.get_run("run")).usage.committed == 3


@pytest.mark.parametrize("outcome", [-0.5, 1.5, 1e308])
async def test_outcomes_out_of_range_store_nothing(allocator: Allocator, outcome: float) -> None:
    """Nothing of the whole batch, neither at observe nor at close; the message names the group."""
    await start(allocator)
    await open_groups(allocator, "g", "h")
    with pytest.raises(InvalidInput, match="group 'h': outcome"):
        await observe(allocator, g=[1.0], h=[outcome])
    final = [CloseGroup(group_id="g", used=1), CloseGroup(group_id="h", used=1, outcomes=[outcome])]
    with pytest.raises(InvalidInput, match="group 'h': outcome"):
        await allocator.close("run", CloseRequest(groups=final))
    run = await allocator.get_run("run")
    assert (run.prior.groups, run.usage.committed, run.usage.reserved) == (0, 0, 8)


async def test_a_prior_out_of_range_stores_nothing(allocator: Allocator) -> None:
    """Nothing of the whole batch; the message names the group."""
    await start(allocator)
    wrong = OpenGroup(group_id="h", prompt_key="k", prior=SuppliedPrior(value=1.5))
    with pytest.raises(InvalidInput, match=r"group 'h': prior 1\.5"):
        await allocator.open("run", OpenRequest(groups=[OpenGroup(group_id="g", prompt_key="k"), wrong]))
    with pytest.raises(NotFound):
        await observe(allocator, g=[1.0])


async def test_more_outcomes_than_rollouts_are_refused(allocator: Allocator) -> None:
    """Every outcome is of a rollout that was drawn."""
    await start(allocator)
    await open_groups(allocator, "g")
    await observe(allocator, g=[1.0, 0.0, 0.0])
    with pytest.raises(InvalidInput, match="3 outcomes of 2 rollouts"):
        await close(allocator, g=2)


async def test_what_was_never_declared_or_opened_is_not_found(allocator: Allocator) -> None:
    """The message names what is missing; a client that keeps books of its runs asks for the declaration."""
    with pytest.raises((NotFound, InvalidInput), match="'run'"):
        await allocator.get_run("run")
    with pytest.raises((NotFound, InvalidInput), match="'run'"):
        await open_groups(allocator, "g")
    await start(allocator)
    with pytest.raises(NotFound, match="'ghost'"):
        await observe(allocator, ghost=[1.0])
    with pytest.raises(NotFound, match="'ghost'"):
        await close(allocator, ghost=1)
    with pytest.raises(NotFound, match="'ghost'"):
        await allocator.baselines("run", BaselinesRequest(group_ids=["ghost"]))
    with pytest.raises(NotFound):
        await allocator.reservation("run/ghost/0/0")
