"""Budgets as people use them, on every ledger: three units, declared and not, warnings, shadow mode, policies, the record."""

from __future__ import annotations

import pytest

from rollout_budget.client.base import Allocator
from rollout_budget.engine import Engine, HistoryPrior
from rollout_budget.engine.ports import Store
from rollout_budget.ledger.base import Ask, Settled, Settlement
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    LimitUse,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    RunLimits,
    RunSpec,
    TeamLimits,
)
from tests.conformance.allocators import observe, open_groups, start
from tests.conformance.implementations import World
from tests.conformance.ledgers import DAY_S, OTHER_RUN, RUN, counts, grants, reserve, set_up, settle, using

EACH = {"tokens_per_rollout": 10, "gpu_seconds_per_rollout": 0.5}
DECLARED = {
    "team tokens": (RunLimits(**EACH), TeamLimits(tokens=65)),
    "team tokens per day": (RunLimits(**EACH), TeamLimits(tokens_per_day=69)),
    "team tokens per month": (RunLimits(**EACH), TeamLimits(tokens_per_month=60)),
    "team seconds": (RunLimits(**EACH), TeamLimits(gpu_seconds=3.0)),
    "team seconds per day": (RunLimits(**EACH), TeamLimits(gpu_seconds_per_day=3.499)),
    "team seconds per month": (RunLimits(**EACH), TeamLimits(gpu_seconds_per_month=3.001)),
    "run tokens": (RunLimits(**EACH, tokens=60), TeamLimits()),
    "run tokens per step": (RunLimits(**EACH, tokens_per_step=60), TeamLimits()),
    "run seconds": (RunLimits(**EACH, gpu_seconds=3.0), TeamLimits()),
    "run seconds per step": (RunLimits(**EACH, gpu_seconds_per_step=3.0), TeamLimits()),
    "the tightest": (RunLimits(**EACH, rollouts=8, gpu_seconds=3.2), TeamLimits(tokens=1_000)),
}


@pytest.mark.parametrize(("run", "team"), DECLARED.values(), ids=DECLARED)
async def test_g01_what_is_declared_is_held_in_every_unit(store: Store, run: RunLimits, team: TeamLimits) -> None:
    """Six rollouts of 10 tokens and half a second fit; a share gets what the tightest unit leaves; less use gives back."""
    await set_up(store, run, team)
    assert await grants(store, Ask("a", 4, 1)) == [4]
    assert await grants(store, Ask("b", 1, 1), Ask("c", 4, 1)) == [1, 1]
    assert await grants(store, Ask("d", 1, 1)) == [0]
    async with using(store) as ledger:
        assert await ledger.available(RUN, 1) == 0
        await ledger.settle(RUN, [Settlement(("a",), 4, tokens=20, seconds=1.0)])
        assert await ledger.available(RUN, 1) == 2
    found = await counts(store)
    assert (found.tokens, found.tokens_reserved, found.tokens_overage) == (20, 20, 0)
    assert (found.seconds, found.seconds_reserved, found.seconds_overage) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("run", "team"),
    [
        (RunLimits(tokens=100), TeamLimits()),
        (RunLimits(tokens_per_step=100), TeamLimits()),
        (RunLimits(), TeamLimits(tokens=100)),
        (RunLimits(), TeamLimits(tokens_per_day=100)),
        (RunLimits(), TeamLimits(tokens_per_month=100)),
        (RunLimits(), TeamLimits(gpu_seconds=1.0)),
        (RunLimits(gpu_seconds_per_step=1.0), TeamLimits()),
    ],
    ids=str,
)
async def test_undeclared_use_stops_grants_once_the_limit_is_reached(
    store: Store, run: RunLimits, team: TeamLimits
) -> None:
    """One short of the limit everything is granted, at it nothing; what was granted before may pass it, as no overage."""
    await set_up(store, run, team)
    assert await grants(store, Ask("a", 4, 1), Ask("b", 4, 1), Ask("c", 4, 1)) == [4, 4, 4]
    async with using(store) as ledger:
        await ledger.settle(RUN, [Settlement(("a",), 4, tokens=99, seconds=0.999)])
        assert await ledger.available(RUN, 1) is None
    assert await grants(store, Ask("d", 500, 1)) == [500]
    async with using(store) as ledger:
        await ledger.settle(RUN, [Settlement(("b",), 4, tokens=1, seconds=0.001)])
        assert await ledger.available(RUN, 1) == 0
        await ledger.settle(RUN, [Settlement(("c",), 4, tokens=50, seconds=2.0)])
    assert await grants(store, Ask("e", 1, 1)) == [0]
    found = await counts(store)
    assert (found.tokens, found.seconds, found.tokens_overage, found.seconds_overage) == (150, 3.0, 0, 0.0)


async def test_use_beyond_the_declaration_is_overage_of_its_unit(store: Store) -> None:
    """It is booked on its own line, counts against the limit, and leaves the rollouts committed."""
    await set_up(store, RunLimits(tokens=100, tokens_per_rollout=10))
    await reserve(store, Ask("a", 4, 3, policy="p"))
    async with using(store) as ledger:
        settled = await ledger.settle(RUN, [Settlement(("a",), 3, 16, tokens=45, seconds=2.5)])
        assert settled == [Settled(committed=3, released=1, overage=0)]
        assert await ledger.available(RUN) == 5
        lines = await ledger.entries("team", "overage")
    assert [(line.rollouts, line.tokens, line.seconds, line.step, line.policy) for line in lines] == [
        (0, 15, 0.0, 3, "p")
    ]
    found = await counts(store)
    assert (found.tokens, found.tokens_overage, found.seconds, found.overage) == (45, 15, 2.5, 0)


async def test_tokens_count_where_they_were_held(store: Store, world: World) -> None:
    """Settled the day after its grant, a group takes nothing of that day's limit, which others have filled."""
    await set_up(store, RunLimits(tokens_per_rollout=10), TeamLimits(tokens_per_day=40))
    await reserve(store, Ask("a", 4), lease_s=100 * DAY_S)
    world.clock.advance(DAY_S)
    assert await grants(store, Ask("b", 5)) == [4]
    async with using(store) as ledger:
        await ledger.settle(RUN, [Settlement(("a",), 4, tokens=40), Settlement(("b",), 4, tokens=40)])
        budget = await ledger.budget("team")
        by_day = await ledger.usage("team", ["day"])
    assert budget.available_tokens == 0
    assert [row.counts.tokens for row in by_day] == [40, 40]


async def test_an_expired_hold_gives_back_every_unit(store: Store, world: World) -> None:
    """What a lease held of tokens and time is free again with its rollouts; late use is overage in all units."""
    await set_up(store, RunLimits(**EACH), TeamLimits(tokens=40, gpu_seconds=2.0))
    await reserve(store, Ask("a", 4), lease_s=100)
    world.clock.advance(100)
    assert await grants(store, Ask("b", 3)) == [3]
    async with using(store) as ledger:
        settled = await ledger.settle(RUN, [Settlement(("a",), 2, tokens=20, seconds=1.0)])
        budget = await ledger.budget("team")
    assert settled == [Settled(committed=0, released=0, overage=2)]
    assert (budget.available_tokens, budget.available_gpu_seconds) == (-10, -0.5)
    assert (budget.usage.tokens_overage, budget.usage.seconds_overage) == (20, 1.0)


async def test_limits_lowered_below_use_stop_new_grants_in_every_unit(store: Store) -> None:
    """Availability is negative; what is held can be settled; raising them again lets grants go on."""
    await set_up(store, RunLimits(**EACH))
    await reserve(store, Ask("a", 8))
    limits = TeamLimits(rollouts=6, tokens=70, gpu_seconds=3.5)
    async with using(store) as ledger:
        await ledger.set_team_limits("team", limits)
        budget = await ledger.budget("team")
        assert (budget.available, budget.available_tokens, budget.available_gpu_seconds) == (-2, -10, -0.5)
        assert await ledger.available(RUN) == -2
        await ledger.set_team_limits("team", TeamLimits(tokens=70))
        assert await ledger.available(RUN) == -1
        await ledger.set_team_limits("team", limits)
    assert await grants(store, Ask("b", 1)) == [0]
    assert await settle(store, 8, "a") == Settled(committed=8, released=0, overage=0)
    async with using(store) as ledger:
        await ledger.set_team_limits("team", TeamLimits())
        assert (await ledger.budget("team")).limits == TeamLimits()
    assert await grants(store, Ask("c", 1)) == [1]


async def test_limits_come_back_as_they_were_set(store: Store) -> None:
    """All of them, times to the millisecond."""
    limits = TeamLimits(rollouts=1, tokens_per_day=2, gpu_seconds_per_month=16.1004, warn_at=0.55, mode="shadow")
    await set_up(store, team=limits)
    async with using(store) as ledger:
        assert (await ledger.budget("team")).limits == limits
    assert limits.gpu_seconds_per_month == 16.1


async def test_warnings_name_the_limits_that_are_nearly_reached(store: Store) -> None:
    """From `warn_at` on, of team and run, in the unit of the limit; without new grants there are none."""
    await set_up(
        store,
        RunLimits(rollouts_per_step=16, tokens_per_rollout=10, warn_at=0.5),
        TeamLimits(rollouts=10, tokens=100, gpu_seconds=0.0, mode="enforce"),
    )
    async with using(store) as ledger:
        await ledger.set_team_limits("team", TeamLimits(rollouts=10, tokens=100, rollouts_per_day=100))
        await ledger.reserve(RUN, [Ask("a", 7, 2)], 60.0, lambda _: [7])
        assert list(ledger.warnings()) == []
        await ledger.reserve(RUN, [Ask("b", 1, 2)], 60.0, lambda _: [1])
        near = list(ledger.warnings())
        assert near == [
            LimitUse(level="team", name="rollouts", used=8, limit=10, share=0.8),
            LimitUse(level="team", name="tokens", used=80, limit=100, share=0.8),
            LimitUse(level="run", name="rollouts_per_step", used=8, limit=16, share=0.5),
        ]
        await ledger.reserve(RUN, [Ask("b", 1, 2)], 60.0, lambda _: [1])
        assert list(ledger.warnings()) == []
        await ledger.reserve(RUN, [Ask("c", 5, 2)], 60.0, lambda _: [0])
        assert list(ledger.warnings()) == near
        budget = await ledger.budget("team")
    assert [(use.name, use.share) for use in budget.uses] == [
        ("rollouts", 0.8),
        ("tokens", 0.8),
        ("rollouts_per_day", 0.08),
    ]
    assert budget.warnings == near[:2]


@pytest.mark.parametrize(
    ("run", "team"),
    [
        (RunLimits(rollouts=6, mode="shadow"), TeamLimits()),
        (RunLimits(), TeamLimits(rollouts_per_day=6, mode="shadow")),
        (RunLimits(tokens=60, tokens_per_rollout=10, mode="shadow"), TeamLimits()),
        (RunLimits(tokens_per_rollout=10), TeamLimits(tokens=69, mode="shadow")),
    ],
    ids=str,
)
async def test_shadow_mode_refuses_nothing_and_counts_what_it_would_have(
    store: Store, run: RunLimits, team: TeamLimits
) -> None:
    """Eight of six are granted, two written down on the last asks; a limit that binds still binds."""
    await set_up(store, run, team)
    assert await grants(store, Ask("a", 4), Ask("b", 4, policy="p")) == [4, 4]
    assert await grants(store, Ask("c", 3)) == [3]
    async with using(store) as ledger:
        assert await ledger.available(RUN) is None
        lines = await ledger.entries("team", "shadow")
        rows = await ledger.usage("team", ["policy"])
    assert [(line.reservation_id, line.rollouts) for line in lines] == [("b", 2), ("c", 3)]
    assert [(row.policy, row.counts.shadow_refused) for row in rows] == [("", 3), ("p", 2)]
    found = await counts(store)
    assert (found.granted, found.refused, found.shadow_refused) == (11, 0, 5)
    async with using(store) as ledger:
        both = run.model_copy(update={"rollouts_per_step": 2, "mode": "enforce"})
        await ledger.open_account(RUN, both)
    assert (await grants(store, Ask("d", 5, 1)))[0] <= 2


async def test_usage_by_policy_adds_up(store: Store, world: World) -> None:
    """Each policy of a run has its own figures, extra rollouts among them; their sum is the run's."""
    await set_up(store)
    await reserve(store, Ask("a", 4, policy="p"), Ask("b", 2, policy="q"))
    await reserve(store, Ask("a1", 3, policy="p", extra=True))
    await reserve(store, Ask("o", 5, policy="p"), account=OTHER_RUN, lease_s=10)
    async with using(store) as ledger:
        await ledger.settle(RUN, [Settlement(("a", "a1"), 9, 16, tokens=100), Settlement(("b",), 1, tokens=7)])
    world.clock.advance(10)
    async with using(store) as ledger:
        assert await ledger.expire() == 5
        rows = await ledger.usage("team", ["run", "policy"])
        whole = (await ledger.usage("team", ["team"]))[0].counts
    figures = [
        (row.run, row.policy, row.counts.granted, row.counts.extra, row.counts.overage, row.counts.tokens)
        for row in rows
    ]
    assert figures == [("other", "p", 5, 0, 0, 0), ("run", "p", 7, 3, 2, 100), ("run", "q", 2, 0, 0, 7)]
    for name in ("granted", "committed", "released", "expired", "saved", "tokens", "extra"):
        assert sum(getattr(row.counts, name) for row in rows) == getattr(whole, name)
    assert whole == await counts(store)


async def test_the_record_is_read_in_pages_that_stay(store: Store) -> None:
    """From any cursor on, by kind and run; what is written later comes after what was read."""
    await set_up(store)
    for place in range(5):
        await reserve(store, Ask(f"a{place}", 2), account=OTHER_RUN if place % 2 else RUN)
    await settle(store, 5, "a0")
    async with using(store) as ledger:
        first = await ledger.entries("team", limit=3)
        rest = await ledger.entries("team", after=first[-1].entry_id)
        assert [line.reservation_id for line in (*first, *rest)] == ["a0", "a1", "a2", "a3", "a4", "a0", "a0"]
        assert [line.kind for line in rest] == ["reserve", "reserve", "commit", "overage"]
        assert [line.reservation_id for line in await ledger.entries("team", "reserve", "other")] == ["a1", "a3"]
        overage = await ledger.entries("team", "overage", "run")
        assert [(line.rollouts, line.run) for line in overage] == [(3, "run")]
        assert await ledger.entries("neighbour") == []
    await reserve(store, Ask("late", 1))
    async with using(store) as ledger:
        assert await ledger.entries("team", limit=3) == first
        assert (await ledger.entries("team", after=rest[-1].entry_id))[0].reservation_id == "late"


async def test_tokens_of_a_group_closed_after_its_run_count_once(store: Store) -> None:
    """However often and with however more: the ledger ends with what the last close says, of rollouts, tokens and time."""
    engine = Engine(store, HistoryPrior())
    await engine.create_run("team", RunSpec(run_id="run", policy="p", k_init=4))
    opening = [OpenGroup(group_id=group_id, prompt_key="k") for group_id in ("early", "late")]
    await engine.open("team", "run", OpenRequest(groups=opening))
    seen = [ObserveGroup(group_id=group_id, outcomes=[1.0, 0.0]) for group_id in ("early", "late")]
    await engine.observe("team", "run", ObserveRequest(groups=seen))
    early = CloseGroup(group_id="early", used=2, tokens=100, seconds=2.0)
    await engine.close("team", "run", CloseRequest(groups=[early]))
    await engine.finish_run("team", "run")
    for used, tokens, seconds in ((2, 100, 2.0), (3, 150, 2.5), (3, 150, 2.5), (3, 170, 2.5), (2, 100, 2.0)):
        groups = [
            CloseGroup(group_id=group_id, used=used, tokens=tokens, seconds=seconds) for group_id in ("early", "late")
        ]
        for _ in range(2):
            await engine.close("team", "run", CloseRequest(groups=groups))
    usage = (await engine.get_run("team", "run")).usage
    assert (usage.committed, usage.overage, usage.groups_closed) == (4, 2, 2)
    assert (usage.tokens, usage.seconds) == (2 * 170, 2 * 2.5)


async def test_what_is_extra_and_whose_it_is_comes_from_the_groups(allocator: Allocator) -> None:
    """First waves are not extra, later ones are; a group's own policy has its usage; a limit that is near is named."""
    await start(allocator, limits=RunLimits(rollouts=5), k_max=8, price=0)
    opened = await open_groups(allocator, "g")
    assert opened.warnings == ["run rollouts: 4 of 5 used or held"]
    await observe(allocator, g=[1.0, 0.0, 1.0, 0.0])
    rows = (await allocator.usage(["run", "policy"])).rows
    assert [(row.policy, row.counts.granted, row.counts.extra, row.counts.refused) for row in rows] == [("p", 5, 1, 3)]
    page = await allocator.entries("refuse", "run", limit=1)
    assert [(line.kind, line.rollouts, line.policy) for line in page.entries] == [("refuse", 3, "p")]
    assert page.next == page.entries[0].entry_id
    assert (await allocator.entries("refuse", "run", after=page.next)).entries == []
