"""A trainer goes on without its allocator: what is decided, said, asked and raised meanwhile (G22)."""

from __future__ import annotations

import asyncio
from itertools import repeat

import pytest

from rollout_budget.client import Breaker, LocalAllocator, Notice, ResilientAllocator
from rollout_budget.errors import Conflict, InvalidInput, NotFound, RunFinished, Unauthorized, Unavailable
from rollout_budget.wire import (
    BaselinesRequest,
    DecideGroup,
    DecideRequest,
    ObserveGroup,
    ObserveRequest,
    OpenAnswer,
    OpenRequest,
    Range,
    RunLimits,
    RunPatch,
    SuppliedPrior,
    TeamLimits,
)
from tests.client.service import TEAM, Fault, House
from tests.client.steps import SPEC, booked, closing, draw, observing, opening


async def test_a_service_that_answers_is_all_there_is() -> None:
    """Nothing is decided, counted or said here while the service is there."""
    house = House()
    plain = LocalAllocator(TEAM, clock=house.service.clock)
    for allocator in (house.allocator, plain):
        await allocator.create_run(SPEC)
        drawn = await draw(allocator, "a", "b", "c")
        answer = await allocator.close(SPEC.run_id, closing(**drawn))
        assert sum(group.committed for group in answer.groups) == sum(drawn.values())
    assert await house.allocator.get_run(SPEC.run_id) == await plain.get_run(SPEC.run_id)
    assert (house.allocator.fallback_total, house.allocator.degraded, house.said) == (0, False, [])


async def test_a_limit_that_is_near_is_noticed_once() -> None:
    """A team's limit once for all runs, a run's once for each; the answer names it every time."""
    house = House()
    said: list[Notice] = []
    allocator = ResilientAllocator(house.client, notify=said.append)
    await house.service.engine.set_team_limits(TEAM, TeamLimits(rollouts=1_000, warn_at=0.004))
    specs = [SPEC.model_copy(update={"run_id": name, "limits": RunLimits(rollouts=5)}) for name in ("one", "two")]
    for spec in specs:
        await allocator.create_run(spec)
        for name in ("a", "b"):
            answer = await allocator.open(spec.run_id, opening(name))
            assert [line.partition(":")[0] for line in answer.warnings] == ["team rollouts", "run rollouts"]
    assert said == [
        Notice("near", "team rollouts: 4 of 1000 used or held"),
        Notice("near", "run rollouts of 'one': 4 of 5 used or held"),
        Notice("near", "run rollouts of 'two': 4 of 5 used or held"),
    ]


async def test_groups_finish_within_what_they_hold() -> None:
    """The service granted a second wave before it died: it is drawn, and no more than it."""
    house = House()
    await house.allocator.create_run(SPEC)
    await house.allocator.open(SPEC.run_id, opening("a"))
    more = (await house.allocator.observe(SPEC.run_id, observing(a=4))).groups[0].more
    assert more > 0
    house.service.die()
    decision = (await house.allocator.observe(SPEC.run_id, observing(a=4 + more))).groups[0]
    assert (decision.action, decision.more, decision.reason) == ("stop", 0, "local_fallback")
    answer = await house.allocator.close(SPEC.run_id, closing(a=4 + more))
    assert (answer.groups[0].committed, answer.groups[0].overage) == (4 + more, 0)
    house.service.return_()
    await house.allocator.flush()
    assert await booked(house) == (4 + more, 0)


async def test_a_group_opened_here_stays_so_when_its_opening_is_repeated() -> None:
    """The service is back and would give another prior: the group keeps the one that it was opened with."""
    house = House()
    await house.allocator.create_run(SPEC)
    house.service.die()
    first = await house.allocator.open(SPEC.run_id, opening("a"))
    house.service.return_()
    await house.allocator.flush()
    again = await house.allocator.open(SPEC.run_id, opening("a", "b"))
    assert again.groups[0] == first.groups[0]
    assert again.groups[1].reason == "first_wave"
    assert again.degraded
    decision = (await house.allocator.observe(SPEC.run_id, observing(a=4))).groups[0]
    assert decision.reason == "local_fallback"
    await house.allocator.close(SPEC.run_id, closing(a=4, b=0))
    assert await booked(house) == (4, 0)


async def test_an_opening_that_is_repeated_forgets_nothing() -> None:
    """What was granted and observed since the first time is still known when the service dies."""
    house = House()
    await house.allocator.create_run(SPEC)
    await house.allocator.open(SPEC.run_id, opening("a"))
    more = (await house.allocator.observe(SPEC.run_id, observing(a=4))).groups[0].more
    await house.allocator.open(SPEC.run_id, opening("a"))
    house.service.die()
    answer = await house.allocator.close(SPEC.run_id, closing(a=4))
    assert more > 0
    assert (answer.groups[0].committed, answer.groups[0].released) == (4, more)


async def test_rollouts_beyond_a_lease_that_ran_out_are_overage() -> None:
    house = House()
    await house.allocator.create_run(SPEC)
    await house.allocator.open(SPEC.run_id, opening("a", lease_s=10.0))
    house.service.die()
    await house.allocator.observe(SPEC.run_id, observing(a=4))
    await house.allocator.close(SPEC.run_id, closing(a=4))
    house.service.clock.now += 100.0
    await house.service.engine.expire()
    house.service.return_()
    await house.allocator.flush()
    assert await booked(house) == (0, 4)


async def test_rollouts_beyond_the_budget_are_overage() -> None:
    """While nobody keeps the budget a group gets its first wave; what did not fit is visible afterwards."""
    house = House(limit=6)
    await house.service.limit()
    await house.allocator.create_run(SPEC)
    house.service.die()
    drawn = await draw(house.allocator, "a", "b", "c")
    await house.allocator.close(SPEC.run_id, closing(**drawn))
    house.service.return_()
    await house.allocator.flush()
    assert await booked(house) == (6, 6)


async def test_local_decisions_follow_the_rules_of_the_run() -> None:
    """From the frozen prior and all outcomes, as the stateless `decide` would, on the caller's scale."""
    spec = SPEC.model_copy(update={"outcome_range": Range(low=-1.0, high=1.0), "estimator": "v05", "price": None})
    house = House()
    await house.allocator.create_run(spec)
    prior = SuppliedPrior(value=0.8, standard_error=0.1)
    await house.allocator.open(SPEC.run_id, opening("a", prior=prior))
    house.service.die()
    seen = ObserveGroup(group_id="a", outcomes=[1.0, -1.0, -1.0, 1.0], rewards=[2.0, 0.0, 0.5, 1.0])
    decision = (await house.allocator.observe(SPEC.run_id, ObserveRequest(groups=[seen]))).groups[0]
    assert decision.ingredients.prior == pytest.approx(0.8)
    assert decision.ingredients.mean == pytest.approx(0.0)
    assert decision.weight == pytest.approx((0.64 - 0.25) / 0.64)  # 1 - s2 / gap^2, s2 = 1/k on this scale
    assert decision.baseline == pytest.approx(0.8 * 0.25 / 0.64)
    assert decision.advantages == pytest.approx([reward - decision.baseline for reward in seen.rewards or []])


async def test_groups_opened_here_start_from_what_the_run_has_seen() -> None:
    """The caller's own prior, or else the running mean of the groups closed before."""
    house = House()
    await house.allocator.create_run(SPEC)
    await house.allocator.open(SPEC.run_id, opening("a"))
    await house.allocator.observe(SPEC.run_id, ObserveRequest(groups=[ObserveGroup(group_id="a", outcomes=[1.0] * 4)]))
    await house.allocator.close(SPEC.run_id, closing(a=4))
    house.service.die()
    plain = await house.allocator.open(SPEC.run_id, opening("b"))
    own = await house.allocator.open(SPEC.run_id, opening("c", prior=SuppliedPrior(value=0.25)))
    assert (plain.groups[0].prior, plain.groups[0].prior_source) == (1.0, "running_mean")
    assert (own.groups[0].prior, own.groups[0].prior_source) == (0.25, "caller")
    assert plain.degraded
    assert "refused" in plain.detail


async def test_a_repeated_request_gets_the_same_answer_from_here() -> None:
    """A group of the service keeps its prior, one of ours its grant; another body is a conflict."""
    house = House()
    await house.allocator.create_run(SPEC)
    theirs = await house.allocator.open(SPEC.run_id, opening("a"))
    house.service.die()
    ours = await house.allocator.open(SPEC.run_id, opening("a", "b"))
    assert ours.groups[0] == theirs.groups[0]
    assert (await house.allocator.open(SPEC.run_id, opening("a", "b"))).groups == ours.groups
    with pytest.raises(Conflict):
        await house.allocator.open(SPEC.run_id, opening("b", policy_version=1))


async def test_while_it_is_away_it_is_not_asked() -> None:
    """One probe when it is due, however many calls there are meanwhile."""
    house = House(breaker=Breaker(probe_after_s=5.0))
    await house.allocator.create_run(SPEC)
    attempts: list[Fault] = []
    house.service.suffer(attempts.append(fault) or fault for fault in repeat(Fault.BEFORE))  # type: ignore[func-returns-value]
    for name in "abcdef":
        await house.allocator.open(SPEC.run_id, opening(name))
    assert len(attempts) == 1
    house.service.clock.now += 5.0
    for name in "ghi":
        await house.allocator.open(SPEC.run_id, opening(name))
    assert len(attempts) == 2
    assert house.allocator.fallback_total == 9
    assert "refused" in house.allocator.fallback_reason


async def test_the_next_call_after_its_return_tells_it_everything_first() -> None:
    house = House(breaker=Breaker(probe_after_s=5.0))
    await house.allocator.create_run(SPEC)
    house.service.die()
    await house.allocator.close(SPEC.run_id, closing(**await draw(house.allocator, "a")))
    house.service.return_()
    house.service.clock.now += 5.0
    house.service.seen.clear()
    opened = await house.allocator.open(SPEC.run_id, opening("b"))
    assert [target.rsplit("/", 1)[1] for target in house.service.seen] == ["open", "close", "open"]
    assert not opened.degraded
    assert house.allocator.fallback_reason == ""


async def test_a_silent_service_is_given_a_deadline() -> None:
    """It accepts the call and never answers."""
    asked = asyncio.Event()

    class Silent(LocalAllocator):
        async def open(self, run_id: str, request: OpenRequest) -> OpenAnswer:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError(run_id, request)

    allocator = ResilientAllocator(Silent(), deadline_s=0.01)
    await allocator.create_run(SPEC)
    opened = await allocator.open(SPEC.run_id, opening("a"))
    assert asked.is_set()
    assert opened.degraded
    assert opened.detail.startswith("no answer within 0.01 s [request ")


async def test_baselines_are_those_that_were_given() -> None:
    """By id, for hooks that see nothing else: also of groups that the service never heard of, and after its death."""
    house = House()
    await house.allocator.create_run(SPEC)
    await house.allocator.open(SPEC.run_id, opening("a", "b"))
    await house.allocator.observe(SPEC.run_id, observing(a=4))
    house.service.die()
    given = (await house.allocator.observe(SPEC.run_id, observing(b=4))).groups[0]
    asked = BaselinesRequest(group_ids=["b", "a"])
    answer = await house.allocator.baselines(SPEC.run_id, asked)
    assert [group.group_id for group in answer.groups] == ["b", "a"]
    assert answer.groups[0].advantages == given.advantages
    with pytest.raises(Unavailable):
        await house.allocator.baselines(SPEC.run_id, BaselinesRequest(group_ids=["stranger"]))


async def test_baselines_of_groups_not_seen_here_are_the_service_s() -> None:
    house = House()
    await house.allocator.create_run(SPEC)
    await house.client.open(SPEC.run_id, opening("a"))
    await house.client.observe(SPEC.run_id, observing(a=4))
    answer = await house.allocator.baselines(SPEC.run_id, BaselinesRequest(group_ids=["a"]))
    assert answer == await house.client.baselines(SPEC.run_id, BaselinesRequest(group_ids=["a"]))


async def test_calls_beside_the_step_are_the_service_s_or_fail() -> None:
    """Its books are not ours to make up; a stateless decision and a heartbeat are."""
    house = House()
    await house.allocator.create_run(SPEC)
    question = DecideRequest(groups=[DecideGroup(group_id="g", outcomes=[1.0, 0.0])])
    there = await house.allocator.decide(question)
    assert (await house.allocator.patch_run(SPEC.run_id, RunPatch(price=0.5))).spec.price == 0.5
    assert (await house.allocator.budget()).team == TEAM
    await house.allocator.open(SPEC.run_id, opening("g"))
    assert [row.counts.reserved for row in (await house.allocator.usage()).rows] == [4]
    assert (await house.allocator.reservation("run%2F1/g/0/0")).rollouts == 4
    assert (await house.allocator.heartbeat(SPEC.run_id)).renewed == 1
    house.service.die()
    assert await house.allocator.decide(question) == there
    assert (await house.allocator.heartbeat(SPEC.run_id)).renewed == 0
    assert (await house.allocator.get_run(SPEC.run_id)).status == "running"
    for call in (
        house.allocator.budget,
        house.allocator.usage,
        lambda: house.allocator.reservation("run%2F1/g/0/0"),
        lambda: house.allocator.patch_run(SPEC.run_id, RunPatch(price=0.1)),
    ):
        with pytest.raises(Unavailable):
            await call()


async def test_the_program_s_own_mistakes_are_raised() -> None:
    """Whether the service is there or not, as far as it can be seen here."""
    house = House()
    await house.allocator.create_run(SPEC)
    await house.allocator.open(SPEC.run_id, opening("a"))
    out_of_range = ObserveRequest(groups=[ObserveGroup(group_id="a", outcomes=[7.0])])
    with pytest.raises(NotFound):
        await house.allocator.close(SPEC.run_id, closing(stranger=1))
    for _ in range(2):
        with pytest.raises(InvalidInput):
            await house.allocator.observe(SPEC.run_id, out_of_range)
        with pytest.raises(InvalidInput):
            await house.allocator.open("never declared", opening("a"))
        with pytest.raises(Conflict):
            await house.allocator.create_run(SPEC.model_copy(update={"policy": "q"}))
        house.service.die()


async def test_a_key_that_is_not_accepted_is_raised_at_creation_and_not_later() -> None:
    house = House()

    async def rejected(*_: object) -> None:
        raise Unauthorized("revoked")

    await house.allocator.create_run(SPEC)
    house.client.open = rejected  # type: ignore[assignment,method-assign]
    assert (await house.allocator.open(SPEC.run_id, opening("a"))).detail == "revoked"
    house.client.create_run = rejected  # type: ignore[assignment,method-assign]
    house.service.clock.now += 60.0
    with pytest.raises(Unauthorized):
        await house.allocator.create_run(SPEC)


async def test_a_service_that_refuses_the_key_is_not_away(caplog: pytest.LogCaptureFixture) -> None:
    """The error alone: no notice, no line in the log, and the next call asks the service again."""
    house = House()

    async def rejected(*_: object) -> None:
        raise Unauthorized("the key is not known")

    house.client.create_run = house.client.budget = rejected  # type: ignore[assignment,method-assign]
    with pytest.raises(Unauthorized):
        await house.allocator.create_run(SPEC)
    with pytest.raises(Unauthorized):
        await house.allocator.budget()
    assert (house.said, house.allocator.degraded, caplog.messages) == ([], False, [])
    assert await house.allocator.usage() == await house.client.usage()


async def test_notices_are_logged_where_nobody_else_takes_them(caplog: pytest.LogCaptureFixture) -> None:
    """Told once: in the log by default, else to `notify` alone."""
    house = House()
    house.service.die()
    await house.allocator.create_run(SPEC)
    assert (house.said, caplog.messages) == (["away"], [])
    await ResilientAllocator(house.client).create_run(SPEC)
    assert [message.split(":")[0] for message in caplog.messages] == ["allocator away"]


async def test_what_the_service_will_not_book_is_said_and_the_rest_is_booked() -> None:
    """While it was away somebody else opened a group under the same id."""
    house = House()
    await house.allocator.create_run(SPEC)
    house.service.die()
    drawn = await draw(house.allocator, "a", "b", "c")
    await house.allocator.close(SPEC.run_id, closing(**drawn))
    house.service.return_()
    await house.client.open(SPEC.run_id, opening("b", policy_version=9))
    assert await house.allocator.flush()
    assert "refused" in house.said
    assert "4 rollouts of group 'b'" in house.notices[-1].detail
    await house.service.engine.finish_run(TEAM, SPEC.run_id)
    assert await booked(house) == (8, 0)


async def test_a_refused_close_is_raised_to_its_caller_alone() -> None:
    house = House()
    await house.allocator.create_run(SPEC)
    await house.allocator.open(SPEC.run_id, opening("a", "b"))
    with pytest.raises(NotFound):
        await house.allocator.close(SPEC.run_id, closing(a=4, stranger=4, b=3))
    assert await booked(house) == (7, 0)
    answer = await house.allocator.close(SPEC.run_id, closing(a=4, b=3))
    assert [group.committed for group in answer.groups] == [4, 3]


async def test_a_run_ended_elsewhere_opens_nothing_here() -> None:
    house = House()
    await house.allocator.create_run(SPEC)
    await house.client.finish_run(SPEC.run_id)
    with pytest.raises(RunFinished):
        await house.allocator.open(SPEC.run_id, opening("a"))
