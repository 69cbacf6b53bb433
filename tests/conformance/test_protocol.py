"""What every allocator does, in process or over HTTP: the whole protocol as a trainer sees it."""

from __future__ import annotations

import pytest

from rollout_budget.client.base import Allocator
from rollout_budget.errors import InvalidInput, NotFound, RunFinished, Unavailable
from rollout_budget.wire import (
    BaselinesRequest,
    CloseGroup,
    CloseRequest,
    DecideGroup,
    DecideRequest,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    Range,
    RunLimits,
    RunSpec,
    SuppliedPrior,
)
from tests.conformance.allocators import close, observe, open_groups, start
from tests.conformance.implementations import World

PAPER_RANGE = Range(low=-1.0, high=1.0)


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
    await close(allocator, g=4)
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
    await start(allocator, k_init=8, price=1 / 4096, limits=RunLimits(rollouts=16 + 5))
    await open_groups(allocator, "settled", "even")
    settled, even = await observe(allocator, settled=[0.0] * 8, even=[1.0, 0.0] * 4)
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


async def test_what_was_drawn_before_the_end_of_the_run_is_booked_after_it(allocator: Allocator, world: World) -> None:
    """A late close with more than was observed books the difference as overage, once; evidence does not double."""
    await start(allocator)
    await open_groups(allocator, "seen", "unseen")
    await observe(allocator, seen=[1.0, 0.0, 1.0])
    released = (await allocator.finish_run("run")).usage.released
    late = [CloseGroup(group_id="seen", used=5), CloseGroup(group_id="unseen", used=4, outcomes=[1.0] * 4)]
    for _ in range(2):
        first, second = (await allocator.close("run", CloseRequest(groups=late))).groups
        assert (first.committed, first.overage, second.committed, second.overage) == (3, 2, 0, 4)
        assert first.released + second.released == released
    usage = (await allocator.get_run("run")).usage
    assert (usage.committed, usage.overage, usage.released, usage.groups_closed) == (3, 6, released, 2)
    assert [(row.key, row.trials) for row in await world.priors.received(2)] == [("seen", 3), ("unseen", 4)]


async def test_g07_a_lease_runs_from_the_last_time_it_was_promised(allocator: Allocator, world: World) -> None:
    """Whoever opens again because the answer was lost reads a lease of 100 s, and has it from then on."""
    await start(allocator, limits=RunLimits(rollouts=4))
    first = await open_groups(allocator, "g", lease_s=100)
    world.clock.advance(90)
    assert await open_groups(allocator, "g", lease_s=100) == first.model_copy(update={"warnings": []})
    world.clock.advance(90)
    assert (await open_groups(allocator, "h", lease_s=100)).groups[0].grant == 0
    world.clock.advance(20)
    assert (await open_groups(allocator, "i", lease_s=100)).groups[0].grant == 4


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


async def test_reservations_are_found_by_percent_encoded_parts(allocator: Allocator) -> None:
    """Ids with slashes, spaces and percent signs stay apart."""
    await allocator.create_run(RunSpec(run_id="a/b", policy="p", k_init=4))
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


async def test_a_run_starts_from_what_another_has_learned(allocator: Allocator) -> None:
    """Its own figures count for fewer groups, none of which it calls its own; a stranger's id stores nothing."""
    await start(allocator, k_init=2, k_max=2)
    outcomes = {f"g{place}": [float(place % 2)] * 2 for place in range(200)}
    priors = [
        OpenGroup(group_id=name, prompt_key=name, prior=SuppliedPrior(value=0.05 + 0.9 * values[0]))
        for name, values in outcomes.items()
    ]
    await allocator.open("run", OpenRequest(groups=priors))
    await observe(allocator, **outcomes)
    await close(allocator, **dict.fromkeys(outcomes, 2))
    learned = (await allocator.get_run("run")).prior
    heir = RunSpec(run_id="heir", policy="p", warm_start="run")
    started = await allocator.create_run(heir)
    assert await allocator.create_run(heir) == started
    assert started.prior.groups == 0
    assert started.prior.brier == pytest.approx(learned.brier)
    assert (await allocator.create_run(RunSpec(run_id="cold", policy="p"))).prior.brier is None
    probe = OpenRequest(groups=[OpenGroup(group_id="g", prompt_key="k", prior=SuppliedPrior(value=0.95))])
    for run_id in ("heir", "cold"):
        await allocator.open(run_id, probe)
    request = ObserveRequest(groups=[ObserveGroup(group_id="g", outcomes=[1.0])])
    errors = [
        (await allocator.observe(run_id, request)).groups[0].ingredients.standard_error for run_id in ("heir", "cold")
    ]
    assert errors[0] is not None
    assert errors[1] is not None
    assert errors[0] < 0.5 * errors[1]
    with pytest.raises(NotFound):
        await allocator.create_run(RunSpec(run_id="lost", policy="p", warm_start="nobody"))
    with pytest.raises(NotFound):
        await allocator.get_run("lost")


async def test_a_run_starts_from_a_run_with_its_own_prior_model_only(allocator: Allocator) -> None:
    """What one model's values proved to mean says nothing of another's; what is refused stores nothing."""
    await start(allocator)
    with pytest.raises(InvalidInput, match="prior model 'gp', not 'history'"):
        await allocator.create_run(RunSpec(run_id="other", policy="p", warm_start="run", prior_model="history"))
    with pytest.raises(NotFound):
        await allocator.get_run("other")
