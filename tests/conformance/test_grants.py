"""What every ledger grants and refuses, and for how long an answer stands: G1, G3 to G5, limits, bad asks, other teams."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rollout_budget.engine.ports import Store
from rollout_budget.errors import Conflict, InvalidInput, NotFound
from rollout_budget.ledger.base import Account, Ask, Settled, Settlement
from rollout_budget.wire import RolloutCounts, RunLimits, TeamLimits
from tests.conformance.implementations import World
from tests.conformance.ledgers import (
    DAY_S,
    LEASE_S,
    OTHER_RUN,
    RUN,
    PowerCut,
    counts,
    grants,
    reserve,
    set_up,
    settle,
    state,
    using,
)

LIMITS = {
    "team total": (RunLimits(), TeamLimits(rollouts=10)),
    "team day": (RunLimits(), TeamLimits(rollouts_per_day=10)),
    "team month": (RunLimits(), TeamLimits(rollouts_per_month=10)),
    "run total": (RunLimits(rollouts=10), TeamLimits()),
    "run step": (RunLimits(rollouts_per_step=10), TeamLimits()),
    "several": (RunLimits(rollouts=10, rollouts_per_step=11), TeamLimits(rollouts=12, rollouts_per_day=13)),
}


@pytest.mark.parametrize(("run", "team"), LIMITS.values(), ids=LIMITS)
async def test_g01_grants_end_at_the_tightest_limit(store: Store, run: RunLimits, team: TeamLimits) -> None:
    """Ten rollouts are granted under each kind of limit, never an eleventh."""
    await set_up(store, run, team)
    assert await grants(store, Ask("a", 6, 1), Ask("b", 3, 1)) == [6, 3]
    assert await grants(store, Ask("c", 3, 1), Ask("d", 2, 1)) == [1, 0]
    assert await grants(store, Ask("e", 1, 1)) == [0]
    async with using(store) as ledger:
        assert await ledger.available(RUN, 1) == 0


async def test_without_limits_everything_is_granted(store: Store) -> None:
    """No limit means none."""
    await set_up(store)
    assert await grants(store, Ask("a", 1024), Ask("b", 1024)) == [1024, 1024]
    async with using(store) as ledger:
        assert await ledger.available(RUN) is None
        assert (await ledger.budget("team")).available is None


async def test_a_limit_per_step_binds_each_step_alone(store: Store) -> None:
    """What one step has used up is not missed by the next, and asks without a step have no such limit."""
    await set_up(store, RunLimits(rollouts_per_step=4))
    assert await grants(store, Ask("a", 6, 1)) == [4]
    assert await grants(store, Ask("b", 6, 2)) == [4]
    assert await grants(store, Ask("c", 6)) == [6]


async def test_a_team_limit_binds_all_its_runs_together(store: Store) -> None:
    """Two runs draw on one budget."""
    await set_up(store, team=TeamLimits(rollouts=10))
    assert await grants(store, Ask("a", 6)) == [6]
    assert await grants(store, Ask("b", 6), account=OTHER_RUN) == [4]


async def test_share_is_asked_what_to_do_with_what_is_left(store: Store) -> None:
    """The ledger says how many are left; who gets them is the caller's rule."""
    await set_up(store, RunLimits(rollouts=5))
    heard: list[int] = []

    def last_come(left: int) -> Sequence[int]:
        heard.append(left)
        return [0, left]

    async with using(store) as ledger:
        answer = await ledger.reserve(RUN, [Ask("a", 4), Ask("b", 6)], LEASE_S, last_come)
    assert heard == [5]
    assert [(item.asked, item.rollouts, item.state) for item in answer] == [(4, 0, "refused"), (6, 5, "reserved")]
    assert (await counts(store)).refused == 5


async def test_a_share_beyond_what_is_left_holds_nothing(store: Store) -> None:
    """The limit does not rest on the caller's rule being right (G1)."""
    await set_up(store, RunLimits(rollouts=5))
    for wrong in ([4, 6], [5], [-1, 5], [5, 0]):
        with pytest.raises(InvalidInput):
            async with store.transaction() as transaction:
                await transaction.ledger.reserve(RUN, [Ask("a", 4), Ask("b", 6)], LEASE_S, lambda _, w=wrong: w)  # type: ignore[misc]
    assert await counts(store) == RolloutCounts()


async def test_g03_an_ask_repeated_has_one_effect_and_one_answer(store: Store) -> None:
    """Five deliveries of one ask hold its rollouts once."""
    await set_up(store, RunLimits(rollouts=10))
    first = await reserve(store, Ask("a", 6), Ask("b", 6))
    for _ in range(5):
        again = await reserve(store, Ask("b", 6), Ask("a", 6))
        assert [(item.id, item.rollouts, item.state) for item in again] == [
            (item.id, item.rollouts, item.state) for item in reversed(first)
        ]
    assert (await counts(store)).granted == 10


async def test_g03_a_new_ask_beside_a_repeated_one_is_granted_alone(store: Store) -> None:
    """A batch that was partly delivered before holds only what is new."""
    await set_up(store, RunLimits(rollouts=10))
    assert await grants(store, Ask("a", 6)) == [6]
    assert await grants(store, Ask("a", 6), Ask("b", 4)) == [6, 4]
    assert (await counts(store)).reserved == 10


@pytest.mark.parametrize(
    ("ask", "account"), [(Ask("a", 5, 1), RUN), (Ask("a", 6, 2), RUN), (Ask("a", 6), RUN), (Ask("a", 6, 1), OTHER_RUN)]
)
async def test_g04_an_id_with_another_body_is_refused_and_nothing_is_held(
    store: Store, ask: Ask, account: Account
) -> None:
    """Other rollouts, another step or another run under one id: a conflict, for the whole batch."""
    await set_up(store)
    await reserve(store, Ask("a", 6, 1))
    with pytest.raises(Conflict, match="'a'"):
        await reserve(store, Ask("new", 1, ask.step), ask, account=account)
    assert (await counts(store)).reserved == 6
    with pytest.raises(NotFound):
        await state(store, "new")


async def test_g05_refused_stays_refused_after_capacity_returns(store: Store) -> None:
    """A delayed duplicate of a refused ask cannot succeed later."""
    await set_up(store, RunLimits(rollouts=4))
    await reserve(store, Ask("a", 4))
    assert await grants(store, Ask("b", 4)) == [0]
    await settle(store, 0, "a")
    assert await grants(store, Ask("b", 4)) == [0]
    assert await grants(store, Ask("c", 4)) == [4]


async def test_a_limit_lowered_below_use_stops_new_grants_only(store: Store) -> None:
    """Availability goes negative; what is held can be committed."""
    await set_up(store, RunLimits(rollouts=10), TeamLimits(rollouts=10))
    await reserve(store, Ask("a", 8))
    async with using(store) as ledger:
        await ledger.open_account(RUN, RunLimits(rollouts=5))
        await ledger.set_team_limits("team", TeamLimits(rollouts=6))
        assert await ledger.available(RUN) == -3
        assert (await ledger.budget("team")).available == -2
    assert await grants(store, Ask("b", 1)) == [0]
    assert await settle(store, 8, "a") == Settled(committed=8, released=0, overage=0)


async def test_opening_an_account_again_keeps_its_use(store: Store) -> None:
    """Limits change, counters do not; the team keeps its own limits."""
    await set_up(store, RunLimits(rollouts=10), TeamLimits(rollouts=9))
    await reserve(store, Ask("a", 8))
    async with using(store) as ledger:
        await ledger.open_account(RUN, RunLimits(rollouts=20))
        assert await ledger.available(RUN) == 1


@pytest.mark.parametrize(
    ("limits", "pause_s"), [(TeamLimits(rollouts_per_day=4), DAY_S), (TeamLimits(rollouts_per_month=4), 32 * DAY_S)]
)
async def test_limits_of_a_period_begin_anew_with_the_next(
    store: Store, world: World, limits: TeamLimits, pause_s: float
) -> None:
    """A rollout counts on the day and month of its grant, even if it is given back or committed later."""
    await set_up(store, team=limits)
    await reserve(store, Ask("a", 4), lease_s=100 * DAY_S)
    assert await grants(store, Ask("b", 1)) == [0]
    world.clock.advance(pause_s)
    assert await grants(store, Ask("c", 4)) == [4]
    await settle(store, 1, "a")
    assert await grants(store, Ask("d", 1)) == [0]


@pytest.mark.parametrize(
    ("asks", "lease_s"),
    [
        ([Ask("a", 0)], LEASE_S),
        ([Ask("a", -1)], LEASE_S),
        ([Ask("a", 1), Ask("a", 1)], LEASE_S),
        ([Ask("a", 1, 1), Ask("b", 1, 2)], LEASE_S),
        ([Ask("a", 1, 1), Ask("b", 1)], LEASE_S),
        ([Ask("a", 1)], 0.0),
        ([Ask("a", 1)], -1.0),
        ([Ask("a", 1)], float("inf")),
        ([Ask("a", 1)], float("nan")),
    ],
)
async def test_impossible_asks_are_refused_and_hold_nothing(store: Store, asks: list[Ask], lease_s: float) -> None:
    """Nothing, less than nothing, an id twice, two steps at once, no lease, an endless one."""
    await set_up(store)
    with pytest.raises(InvalidInput):
        await reserve(store, *asks, lease_s=lease_s)
    assert await counts(store) == RolloutCounts()


async def test_what_is_not_there_is_not_found(store: Store) -> None:
    """Unknown runs, unknown reservations, reservations of another run or another team."""
    await set_up(store)
    await reserve(store, Ask("a", 4))
    async with using(store) as ledger:
        await ledger.open_account(Account("neighbour", "run"), RunLimits())
    for team, key in (("team", "b"), ("neighbour", "a"), ("nobody", "a")):
        with pytest.raises(NotFound):
            async with using(store) as ledger:
                await ledger.reservation(team, key)
    for account, key in ((RUN, "b"), (OTHER_RUN, "a"), (Account("neighbour", "run"), "a")):
        with pytest.raises(NotFound):
            async with using(store) as ledger:
                await ledger.settle(account, [Settlement((key,), 1)])
    with pytest.raises(NotFound):
        await reserve(store, Ask("b", 1), account=Account("team", "never opened"))
    with pytest.raises(NotFound):
        async with using(store) as ledger:
            await ledger.available(Account("team", "never opened"))


async def test_g14_two_teams_may_use_the_same_ids(store: Store) -> None:
    """Ids are the team's own; neither sees the other's."""
    await set_up(store)
    neighbour = Account("neighbour", "run")
    async with using(store) as ledger:
        await ledger.open_account(neighbour, RunLimits())
    assert await grants(store, Ask("a", 4)) == [4]
    assert await grants(store, Ask("a", 7), account=neighbour) == [7]
    assert (await counts(store)).granted == 4


async def test_g09_a_transaction_that_raises_leaves_no_trace(store: Store) -> None:
    """Reservations, settlements, limits and accounts are undone together."""
    await set_up(store, RunLimits(rollouts=10))
    await reserve(store, Ask("a", 4))
    before = await counts(store)

    async def interrupted() -> None:
        async with store.transaction() as transaction:
            ledger = transaction.ledger
            await ledger.reserve(RUN, [Ask("b", 4)], LEASE_S, lambda _: [0])
            await ledger.settle(RUN, [Settlement(("a",), 9)])
            await ledger.open_account(Account("team", "third"), RunLimits())
            await ledger.set_team_limits("team", TeamLimits(rollouts=0))
            raise PowerCut

    with pytest.raises(PowerCut):
        await interrupted()
    assert await counts(store) == before
    assert await state(store, "a") == "reserved"
    assert await grants(store, Ask("b", 6)) == [6]
    with pytest.raises(NotFound):
        await reserve(store, Ask("c", 1), account=Account("team", "third"))
