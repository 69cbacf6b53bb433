"""Where rollouts go once they are granted, on every ledger: G6 to G8, leases, overage, usage."""

from __future__ import annotations

import pytest

from rollout_budget.engine.ports import Store
from rollout_budget.errors import InvalidInput
from rollout_budget.ledger.base import Ask, Selection, Settled, Settlement
from rollout_budget.wire import RunLimits, TeamLimits
from tests.conformance.implementations import World
from tests.conformance.ledgers import (
    DAY_S,
    LEASE_S,
    OTHER_RUN,
    RUN,
    counts,
    grants,
    reserve,
    set_up,
    settle,
    state,
    using,
)


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


async def test_g11_a_lease_is_of_the_ledgers_own_clock(store: Store, world: World) -> None:
    """A day after this process's clock: what is held for ten seconds is held, for ten seconds and no longer."""
    await set_up(store, RunLimits(rollouts=4))
    world.clock.advance(DAY_S)
    await reserve(store, Ask("a", 4), lease_s=10.0)
    assert await grants(store, Ask("b", 4)) == [0]
    assert await state(store, "a") == "reserved"
    world.clock.advance(11.0)
    assert await grants(store, Ask("c", 4)) == [4]


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
        one_run = await ledger.usage("team", ["run"], Selection(run="other"))
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


async def test_negative_use_is_refused(store: Store) -> None:
    """A settlement cannot give back more than was held; the whole batch is refused."""
    await set_up(store)
    await reserve(store, Ask("a", 4), Ask("b", 4))
    with pytest.raises(InvalidInput):
        async with store.transaction() as transaction:
            await transaction.ledger.settle(RUN, [Settlement(("a",), 4), Settlement(("b",), -1)])
    assert [await state(store, key) for key in "ab"] == ["reserved", "reserved"]
