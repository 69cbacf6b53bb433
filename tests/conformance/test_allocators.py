"""What every allocator does, in process or over HTTP: the whole protocol as a trainer sees it."""

from __future__ import annotations

from itertools import permutations

import pytest

from rollout_budget.client.base import Allocator
from rollout_budget.errors import Conflict, InvalidInput, NotFound, RunFinished, Unavailable
from rollout_budget.wire import (
    BaselinesRequest,
    CloseGroup,
    CloseRequest,
    DecideGroup,
    DecideRequest,
    Decision,
    ObserveGroup,
    ObserveRequest,
    OpenAnswer,
    OpenGroup,
    OpenRequest,
    Range,
    RunLimits,
    RunPatch,
    RunSpec,
    SuppliedPrior,
)
from tests.conformance.implementations import World

PAPER_RANGE = Range(low=-1.0, high=1.0)


async def start(allocator: Allocator, **settings: object) -> None:
    """Declare the run that all tests use."""
    await allocator.create_run(RunSpec.model_validate({"run_id": "run", "policy": "p", **settings}))


async def open_groups(allocator: Allocator, *group_ids: str, lease_s: float = 1000.0) -> OpenAnswer:
    """Open groups whose prompt keys are their ids."""
    groups = [OpenGroup(group_id=group_id, prompt_key=group_id, step=1) for group_id in group_ids]
    return await allocator.open("run", OpenRequest(groups=groups, lease_s=lease_s))


async def observe(allocator: Allocator, **outcomes: list[float]) -> list[Decision]:
    """Report all outcomes of some groups."""
    groups = [ObserveGroup(group_id=group_id, outcomes=values) for group_id, values in outcomes.items()]
    return (await allocator.observe("run", ObserveRequest(groups=groups))).groups


async def close(allocator: Allocator, **used: int) -> list[tuple[int, int, int]]:
    """Close groups; return what was committed, released and beyond."""
    groups = [CloseGroup(group_id=group_id, used=count) for group_id, count in used.items()]
    answer = await allocator.close("run", CloseRequest(groups=groups))
    return [(line.committed, line.released, line.overage) for line in answer.groups]


async def test_a_step_from_declaration_to_evidence(allocator: Allocator, world: World) -> None:
    """Priors in, grants out, waves until the rule stops, rollouts settled, outcomes kept as evidence."""
    world.priors.table = {"hard": 0.1, "even": 0.5}
    await start(allocator)
    opened = await open_groups(allocator, "hard", "even")
    assert [(group.prior, group.grant, group.prior_source) for group in opened.groups] == [
        (0.1, 4, "prior_service"),
        (0.5, 4, "prior_service"),
    ]
    outcomes = {"hard": [0.0, 0.0, 0.0, 0.0], "even": [1.0, 0.0, 0.0, 1.0]}
    while drawing := [group for group in await observe(allocator, **outcomes) if group.action == "more"]:
        for decision in drawing:
            outcomes[decision.group_id] += [float(place % 2) for place in range(decision.more)]
    used = {group_id: len(values) for group_id, values in outcomes.items()}
    assert await close(allocator, **used) == [(count, 0, 0) for count in used.values()]
    run = await allocator.get_run("run")
    total = sum(used.values())
    assert (run.usage.granted, run.usage.committed, run.usage.reserved) == (total, total, 0)
    assert (run.usage.groups_closed, run.usage.saved, run.prior.groups) == (2, 32 - total, 2)
    assert [(row.key, row.trials, row.successes) for row in await world.priors.received(2)] == sorted(
        (group_id, len(values), sum(values)) for group_id, values in outcomes.items()
    )


async def test_answers_are_on_the_declared_scale(allocator: Allocator) -> None:
    """Outcomes of -1 and +1: the same decisions, doubled and shifted."""
    await start(allocator, outcome_range=PAPER_RANGE)
    await allocator.create_run(RunSpec(run_id="unit", policy="p"))
    for run_id, low in (("run", -1.0), ("unit", 0.0)):
        prior = SuppliedPrior(value=low + 0.25 * (1.0 - low), standard_error=0.1)
        group = OpenGroup(group_id="g", prompt_key="k", prior=prior)
        await allocator.open(run_id, OpenRequest(groups=[group]))
    report = {
        run_id: ObserveRequest(groups=[ObserveGroup(group_id="g", outcomes=[low, 1.0, low, low])])
        for run_id, low in (("run", -1.0), ("unit", 0.0))
    }
    paper = (await allocator.observe("run", report["run"])).groups[0]
    unit = (await allocator.observe("unit", report["unit"])).groups[0]
    assert paper.more == unit.more
    assert paper.baseline == pytest.approx(2 * unit.baseline - 1)
    assert paper.advantages == pytest.approx([2 * value for value in unit.advantages])
    assert paper.ingredients.standard_error == pytest.approx(2 * (unit.ingredients.standard_error or 0.0))
    assert unit.ingredients.prior == 0.25
    assert unit.ingredients.mean == 0.25
    assert unit.advantages == pytest.approx([y - b for y, b in zip([0, 1, 0, 0], unit.baselines, strict=True)])


async def test_advantages_are_rewards_less_baselines(allocator: Allocator) -> None:
    """Shaped rewards drive the loss; outcomes alone drive the decision."""
    await start(allocator)
    await open_groups(allocator, "g", "h")
    groups = [
        ObserveGroup(group_id="g", outcomes=[1.0, 0.0, 0.0], rewards=[7.0, -3.0, 0.5]),
        ObserveGroup(group_id="h", outcomes=[1.0, 0.0, 0.0]),
    ]
    shaped, plain = (await allocator.observe("run", ObserveRequest(groups=groups))).groups
    assert (shaped.more, shaped.baselines) == (plain.more, plain.baselines)
    assert shaped.advantages == [
        reward - baseline for reward, baseline in zip([7.0, -3.0, 0.5], shaped.baselines, strict=True)
    ]


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
    again = await allocator.create_run(RunSpec(run_id="run", policy="p"))
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
    assert (await allocator.get_run("run")).prior.groups == 1
    found = (await allocator.baselines("run", BaselinesRequest(group_ids=["g", "h"]))).groups
    assert (found[0].baselines, found[1].baselines) == (before.baselines, [])


async def test_g04_a_group_closed_with_another_count_is_refused(allocator: Allocator) -> None:
    """The first close stands."""
    await start(allocator)
    await open_groups(allocator, "g", "h")
    assert await close(allocator, g=3) == [(3, 1, 0)]
    with pytest.raises(Conflict, match="'g'"):
        await close(allocator, h=2, g=4)
    assert (await allocator.get_run("run")).usage.committed == 3


async def test_an_attempt_is_another_group(allocator: Allocator) -> None:
    """A group given up and tried again: both are accounted for, and baselines are those of the last."""
    await start(allocator)
    for attempt in (0, 1):
        group = OpenGroup(
            group_id="g", attempt=attempt, prompt_key="k", prior=SuppliedPrior(value=0.25 * (attempt + 1))
        )
        await allocator.open("run", OpenRequest(groups=[group]))
    baselines = await allocator.baselines("run", BaselinesRequest(group_ids=["g"]))
    assert baselines.groups[0].baseline == 0.5
    given_up = CloseGroup(group_id="g", attempt=0, used=1, discard=True)
    await allocator.close("run", CloseRequest(groups=[given_up]))
    usage = (await allocator.get_run("run")).usage
    assert (usage.committed, usage.released, usage.reserved, usage.groups_closed) == (1, 3, 4, 0)


async def test_a_prior_source_that_fails_degrades_and_says_so(allocator: Allocator, world: World) -> None:
    """The run's own mean serves; the reason is given; a repeated open says the same even after recovery."""
    await start(allocator)
    await open_groups(allocator, "g")
    await observe(allocator, g=[1.0, 1.0, 1.0, 0.0])
    world.priors.failure = Unavailable("nobody there")
    opened = await open_groups(allocator, "h")
    assert opened.degraded
    assert "nobody there" in opened.detail
    assert (opened.groups[0].prior, opened.groups[0].prior_source) == (0.75, "running_mean")
    world.priors.failure = None
    assert await open_groups(allocator, "h") == opened
    assert not (await open_groups(allocator, "i")).degraded


async def test_evidence_waits_for_a_prior_source_that_is_down(allocator: Allocator, world: World) -> None:
    """Closing does not fail, and the next close carries what waited."""
    await start(allocator)
    await open_groups(allocator, "g", "h")
    await observe(allocator, g=[1.0], h=[0.0])
    world.priors.failure = Unavailable("nobody there")
    await close(allocator, g=1)
    assert world.priors.evidence == {}
    world.priors.failure = None
    await close(allocator, h=1)
    assert [row.key for row in await world.priors.received(2)] == ["g", "h"]


async def test_a_budget_that_is_gone_is_an_answer_not_an_error(allocator: Allocator) -> None:
    """Groups open with nothing, waves stop, baselines are still given."""
    await start(allocator, limits=RunLimits(rollouts=6))
    opened = await open_groups(allocator, "a", "b", "c")
    assert sum(group.grant for group in opened.groups) == 6
    assert {group.reason for group in opened.groups if not group.grant} <= {"budget_exhausted"}
    outcomes = {group.group_id: [1.0, 0.0, 1.0, 0.0][: group.grant] for group in opened.groups}
    for decision in await observe(allocator, **outcomes):
        assert (decision.action, decision.more, decision.reason) == ("stop", 0, "budget_exhausted")
        assert len(decision.baselines) == len(outcomes[decision.group_id])


async def test_the_last_rollouts_go_where_they_are_worth_most(allocator: Allocator) -> None:
    """An uncertain group is worth more than a settled one, whatever its place in the request."""
    await start(allocator, limits=RunLimits(rollouts=8 + 5))
    await open_groups(allocator, "settled", "even")
    settled, even = await observe(allocator, settled=[0.0] * 4, even=[1.0, 0.0, 1.0, 0.0])
    assert even.more > settled.more
    assert settled.more + even.more == 5


async def test_finishing_a_run_settles_what_was_observed(allocator: Allocator, world: World) -> None:
    """Held rollouts go back, nothing opens any more, and what was answered stays answered."""
    await start(allocator)
    opened = await open_groups(allocator, "g", "h")
    await observe(allocator, g=[1.0, 0.0, 1.0])
    finished = await allocator.finish_run("run")
    assert finished.status == "finished"
    assert (finished.usage.committed, finished.usage.released, finished.usage.reserved) == (
        3,
        finished.usage.granted - 3,
        0,
    )
    assert await allocator.finish_run("run") == finished
    assert await open_groups(allocator, "g", "h") == opened
    with pytest.raises(RunFinished):
        await open_groups(allocator, "g", "new")
    assert [row.trials for row in await world.priors.received(1)] == [3]
    assert (await close(allocator, g=3))[0][0] == 3


async def test_observing_and_heartbeats_keep_leases_alive(allocator: Allocator, world: World) -> None:
    """A lease that is renewed outlasts its first end; one that is not gives its rollouts back to who asks next."""
    await start(allocator, limits=RunLimits(rollouts=8), stopping="fixed", k_max=4)
    await open_groups(allocator, "g", "h", lease_s=100)
    world.clock.advance(90)
    assert (await allocator.heartbeat("run")).renewed == 2
    world.clock.advance(90)
    await observe(allocator, g=[1.0])
    world.clock.advance(90)
    assert (await open_groups(allocator, "late")).groups[0].grant == 4
    states = [(await allocator.reservation(f"run/{name}/0/0")).state for name in "gh"]
    assert states == ["reserved", "expired"]
    assert await close(allocator, g=1, h=2) == [(1, 3, 0), (0, 0, 2)]


async def test_baselines_by_id_are_those_of_the_last_decision(allocator: Allocator) -> None:
    """For hooks that see ids alone; before any outcome it is the prior."""
    await start(allocator)
    await open_groups(allocator, "g", "h")
    decided = (await observe(allocator, g=[1.0, 0.0, 0.0]))[0]
    found = (await allocator.baselines("run", BaselinesRequest(group_ids=["h", "g"]))).groups
    assert (found[0].group_id, found[0].baseline, found[0].advantages) == ("h", 0.5, [])
    assert (found[1].baseline, found[1].baselines, found[1].advantages) == (
        decided.baseline,
        decided.baselines,
        decided.advantages,
    )


async def test_deciding_without_a_run_stores_nothing(allocator: Allocator) -> None:
    """Priors and outcomes in, decisions out, a cap shared by worth."""
    groups = [
        DecideGroup(group_id="settled", prior=SuppliedPrior(value=0.0), outcomes=[0.0] * 4),
        DecideGroup(group_id="even", prior=SuppliedPrior(value=0.5), outcomes=[1.0, 0.0, 1.0, 0.0]),
        DecideGroup(group_id="new"),
    ]
    free = await allocator.decide(DecideRequest(groups=groups, squared_prior_error=0.1, within_variance=0.2))
    assert free.groups[2].more == 4
    assert free.groups[2].reason == "first_wave"
    assert free.groups[2].baseline == pytest.approx(0.25)
    capped = await allocator.decide(
        DecideRequest(groups=groups, squared_prior_error=0.1, within_variance=0.2, budget=3)
    )
    assert sum(group.more for group in capped.groups) == 3
    assert [group.advantages for group in capped.groups] == [group.advantages for group in free.groups]
    assert (await allocator.budget()).usage.granted == 0


@pytest.mark.parametrize("outcome", [-0.5, 1.5, 1e308])
async def test_outcomes_out_of_range_store_nothing(allocator: Allocator, outcome: float) -> None:
    """Nothing of the whole batch, neither at observe nor at close."""
    await start(allocator)
    await open_groups(allocator, "g", "h")
    with pytest.raises(InvalidInput):
        await observe(allocator, g=[1.0], h=[outcome])
    final = [CloseGroup(group_id="g", used=1), CloseGroup(group_id="h", used=1, outcomes=[outcome])]
    with pytest.raises(InvalidInput):
        await allocator.close("run", CloseRequest(groups=final))
    run = await allocator.get_run("run")
    assert (run.prior.groups, run.usage.committed, run.usage.reserved) == (0, 0, 8)


async def test_a_prior_out_of_range_stores_nothing(allocator: Allocator) -> None:
    """Nothing of the whole batch."""
    await start(allocator)
    wrong = OpenGroup(group_id="h", prompt_key="k", prior=SuppliedPrior(value=1.5))
    with pytest.raises(InvalidInput):
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
    """The message names what is missing."""
    with pytest.raises(NotFound):
        await allocator.get_run("run")
    with pytest.raises(NotFound):
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


async def test_reservations_are_found_by_percent_encoded_parts(allocator: Allocator) -> None:
    """Ids with slashes, spaces and percent signs stay apart."""
    await allocator.create_run(RunSpec(run_id="a/b", policy="p"))
    group = OpenGroup(group_id="50% of/it", prompt_key="k")
    await allocator.open("a/b", OpenRequest(groups=[group]))
    found = await allocator.reservation("a%2Fb/50%25%20of%2Fit/0/0")
    assert (found.run_id, found.rollouts, found.used, found.state) == ("a/b", 4, 0, "reserved")


async def test_usage_and_budget_agree(allocator: Allocator) -> None:
    """The same counts by team, by run and as budget."""
    await start(allocator)
    await open_groups(allocator, "g")
    await close(allocator, g=3)
    rows = (await allocator.usage(["run"])).rows
    assert [(row.run, row.counts.committed, row.counts.released) for row in rows] == [("run", 3, 1)]
    assert (await allocator.usage()).rows[0].counts == (await allocator.budget()).usage
