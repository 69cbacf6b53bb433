"""What every ledger does, on every store: decisions 1 to 8 of the ledger's contract, guarantees G1 to G8."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from rollout_budget.engine.ports import Store
from rollout_budget.errors import Conflict, InvalidInput, NotFound
from rollout_budget.ledger.base import Account, Ask, Ledger, Reservation, Settled, Settlement
from rollout_budget.wire import RolloutCounts, RunLimits, TeamLimits
from tests.conformance.implementations import World

RUN = Account("team", "run")
OTHER_RUN = Account("team", "other")
LEASE_S = 1000.0
DAY_S = 86_400.0


class PowerCut(Exception):
    """A transaction ends in the middle."""


@asynccontextmanager
async def using(store: Store) -> AsyncIterator[Ledger]:
    """Use the ledger in one transaction, and find it in balance at its end (G2)."""
    async with store.transaction() as transaction:
        yield transaction.ledger
        assert await transaction.ledger.audit() == []


async def set_up(store: Store, run: RunLimits | None = None, team: TeamLimits | None = None) -> None:
    """Open both runs of the team; the first has limits."""
    async with using(store) as ledger:
        await ledger.open_account(RUN, run or RunLimits())
        await ledger.open_account(OTHER_RUN, RunLimits())
        await ledger.set_team_limits("team", team or TeamLimits())


async def reserve(store: Store, *asks: Ask, account: Account = RUN, lease_s: float = LEASE_S) -> list[Reservation]:
    """Reserve in one transaction; what is left goes to the first asks first."""

    def first_come(left: int) -> list[int]:
        grants = []
        for ask in asks:
            grants.append(min(ask.rollouts, left))
            left -= grants[-1]
        return grants

    async with using(store) as ledger:
        return await ledger.reserve(account, asks, lease_s, first_come)


async def grants(store: Store, *asks: Ask, account: Account = RUN, lease_s: float = LEASE_S) -> list[int]:
    """Reserve, and return the grants alone."""
    return [item.rollouts for item in await reserve(store, *asks, account=account, lease_s=lease_s)]


async def settle(store: Store, used: int, *ids: str, reference: int = 0) -> Settled:
    """Settle one group in one transaction."""
    async with using(store) as ledger:
        return (await ledger.settle(RUN, [Settlement(ids, used, reference)]))[0]


async def state(store: Store, reservation_id: str) -> str:
    """Return where a reservation stands."""
    async with using(store) as ledger:
        return (await ledger.reservation("team", reservation_id)).state


async def counts(store: Store) -> RolloutCounts:
    """Return the team's counters."""
    async with using(store) as ledger:
        return (await ledger.budget("team")).usage


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


async def test_g06_partial_use_returns_the_rest(store: Store) -> None:
    """What is settled with less is available again; the first waves are used up first."""
    await set_up(store, RunLimits(rollouts=10))
    await reserve(store, Ask("a", 4), Ask("b", 4))
    assert await settle(store, 5, "a", "b") == Settled(committed=5, released=3, overage=0)
    async with using(store) as ledger:
        found = [await ledger.reservation("team", key) for key in "ab"]
        assert [(item.state, item.used, item.expires_in_s) for item in found] == [
            ("committed", 4, None),
            ("committed", 1, None),
        ]
        assert await ledger.available(RUN) == 5


async def test_g06_what_is_not_used_at_all_is_released(store: Store) -> None:
    """A group that drew nothing gives everything back."""
    await set_up(store)
    await reserve(store, Ask("a", 4))
    assert await settle(store, 0, "a") == Settled(committed=0, released=4, overage=0)
    assert await state(store, "a") == "released"


async def test_g06_an_id_resolves_once(store: Store) -> None:
    """A second settlement finds nothing held: what it says was drawn is overage, and a second expiry does nothing."""
    await set_up(store)
    await reserve(store, Ask("a", 4))
    await settle(store, 4, "a")
    assert await settle(store, 1, "a") == Settled(committed=0, released=0, overage=1)
    assert (await counts(store)).committed == 4


async def test_use_beyond_the_grant_is_booked_and_counts_against_the_limit(store: Store) -> None:
    """A trainer that drew anyway is not stopped, but what it drew is gone from the budget."""
    await set_up(store, RunLimits(rollouts=10))
    await reserve(store, Ask("a", 4, 3))
    assert await settle(store, 7, "a") == Settled(committed=4, released=0, overage=3)
    async with using(store) as ledger:
        assert await ledger.available(RUN) == 3
    assert await grants(store, Ask("b", 4, 4)) == [3]


async def test_overage_counts_against_its_step(store: Store) -> None:
    """A limit per step sees what was drawn beyond the grants of that step."""
    await set_up(store, RunLimits(rollouts_per_step=6))
    await reserve(store, Ask("a", 4, 3))
    await settle(store, 5, "a")
    assert await grants(store, Ask("b", 4, 3)) == [1]


async def test_a_refused_reservation_holds_nothing(store: Store) -> None:
    """What was drawn without a grant is overage."""
    await set_up(store, RunLimits(rollouts=0))
    await reserve(store, Ask("a", 4))
    assert await settle(store, 2, "a") == Settled(committed=0, released=0, overage=2)
    assert await state(store, "a") == "refused"


async def test_g07_a_lease_is_never_ended_early(store: Store, world: World) -> None:
    """A moment before its end a lease holds, at its end it is given back, without any sweeper."""
    await set_up(store, RunLimits(rollouts=4))
    await reserve(store, Ask("a", 4))
    world.clock.advance(LEASE_S - 10)
    assert await grants(store, Ask("b", 4)) == [0]
    assert await state(store, "a") == "reserved"
    world.clock.advance(10)
    assert await grants(store, Ask("c", 3)) == [3]
    assert await state(store, "a") == "expired"
    assert (await counts(store)).expired == 4


async def test_g07_what_is_due_stays_held_while_nobody_needs_it(store: Store, world: World) -> None:
    """Expiry is lazy: a grant that fits takes nothing from anybody."""
    await set_up(store, RunLimits(rollouts=8))
    await reserve(store, Ask("a", 4))
    world.clock.advance(2 * LEASE_S)
    assert await grants(store, Ask("b", 4)) == [4]
    assert await state(store, "a") == "reserved"
    assert await settle(store, 4, "a") == Settled(committed=4, released=0, overage=0)


async def test_g07_a_refusal_expires_what_is_due_in_every_run_of_the_team(store: Store, world: World) -> None:
    """A team's budget comes back wherever it was held."""
    await set_up(store, team=TeamLimits(rollouts=4))
    await reserve(store, Ask("a", 4), account=OTHER_RUN)
    world.clock.advance(LEASE_S)
    assert await grants(store, Ask("b", 4)) == [4]


async def test_g07_expiry_takes_only_what_is_due(store: Store, world: World) -> None:
    """Of two leases the shorter ends first; a second expiry finds nothing."""
    await set_up(store)
    await reserve(store, Ask("short", 2), lease_s=100)
    await reserve(store, Ask("long", 3), lease_s=1000)
    await reserve(store, Ask("elsewhere", 5), account=OTHER_RUN, lease_s=100)
    world.clock.advance(100)
    async with using(store) as ledger:
        assert await ledger.expire(RUN) == 2
        assert await ledger.expire(RUN) == 0
        assert await ledger.expire() == 5
    assert await state(store, "long") == "reserved"


async def test_renewal_moves_the_end_and_never_forward(store: Store, world: World) -> None:
    """Renewal counts from now; a shorter lease than what remains leaves the longer one."""
    await set_up(store, RunLimits(rollouts=8))
    await reserve(store, Ask("a", 4), Ask("b", 4))
    world.clock.advance(900)
    async with using(store) as ledger:
        assert await ledger.renew(RUN, 1000, ["a", "unknown"]) == 1
        assert await ledger.renew(RUN, 10) == 2
    world.clock.advance(100)
    async with using(store) as ledger:
        assert await ledger.expire(RUN) == 4
        assert await ledger.renew(RUN, 1000) == 1
    assert [await state(store, key) for key in "ab"] == ["reserved", "expired"]


async def test_a_due_lease_can_still_be_renewed(store: Store, world: World) -> None:
    """Until someone takes it back it is held: a late heartbeat is not too late."""
    await set_up(store)
    await reserve(store, Ask("a", 4))
    world.clock.advance(2 * LEASE_S)
    async with using(store) as ledger:
        assert await ledger.renew(RUN, LEASE_S, ["a"]) == 1
        assert await ledger.expire(RUN) == 0


async def test_g08_expiry_before_settlement_makes_it_overage(store: Store, world: World) -> None:
    """Of an expiry and a commit the first wins, and the other sees it."""
    await set_up(store)
    await reserve(store, Ask("a", 4))
    world.clock.advance(LEASE_S)
    async with using(store) as ledger:
        assert await ledger.expire(RUN) == 4
    assert await settle(store, 4, "a") == Settled(committed=0, released=0, overage=4)


async def test_g08_settlement_before_expiry_leaves_nothing_to_expire(store: Store, world: World) -> None:
    """The other order: the commit stands."""
    await set_up(store)
    await reserve(store, Ask("a", 4))
    world.clock.advance(LEASE_S)
    assert await settle(store, 4, "a") == Settled(committed=4, released=0, overage=0)
    async with using(store) as ledger:
        assert await ledger.expire() == 0


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


async def test_usage_by_run_and_day(store: Store, world: World) -> None:
    """Counts are grouped by what is asked for and add up to the whole."""
    await set_up(store)
    await reserve(store, Ask("a", 4), Ask("b", 4))
    await settle(store, 3, "a", reference=16)
    await reserve(store, Ask("c", 5), account=OTHER_RUN)
    world.clock.advance(DAY_S)
    await reserve(store, Ask("d", 6))
    async with using(store) as ledger:
        by_run = await ledger.usage("team", ["run"])
        by_day = await ledger.usage("team", ["run", "day"])
        whole = await ledger.usage(None, ["team"])
        one_run = await ledger.usage("team", ["run"], run="other")
        assert await ledger.usage("nobody", ["run"]) == []
    assert [(row.team, row.run, row.day) for row in by_run] == [(None, "other", None), (None, "run", None)]
    assert [row.counts.granted for row in by_run] == [5, 14]
    assert [row.counts.saved for row in by_run] == [0, 13]
    assert [(row.run, row.counts.granted) for row in by_day] == [("other", 5), ("run", 8), ("run", 6)]
    assert len({row.day for row in by_day}) == 2
    assert whole[0].counts == await counts(store)
    assert one_run == by_run[:1]


async def test_tokens_and_seconds_are_recorded_beside_rollouts(store: Store) -> None:
    """They limit nothing here and do not depend on use."""
    await set_up(store)
    await reserve(store, Ask("a", 4), Ask("b", 4))
    settlements = [
        Settlement(("a",), 4, reference=16, tokens=1000, seconds=2.5),
        Settlement(("b",), 0, tokens=500, seconds=0.5),
    ]
    async with using(store) as ledger:
        await ledger.settle(RUN, settlements)
    found = await counts(store)
    assert (found.tokens, found.seconds, found.groups_closed, found.saved) == (1500, 3.0, 1, 12)
    assert found.granted == found.committed + found.released


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


async def test_negative_use_is_refused(store: Store) -> None:
    """A settlement cannot give back more than was held; the whole batch is refused."""
    await set_up(store)
    await reserve(store, Ask("a", 4), Ask("b", 4))
    with pytest.raises(InvalidInput):
        async with store.transaction() as transaction:
            await transaction.ledger.settle(RUN, [Settlement(("a",), 4), Settlement(("b",), -1)])
    assert [await state(store, key) for key in "ab"] == ["reserved", "reserved"]


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
