"""Whatever is lost on the way there or back, the ledger ends with what was drawn, each rollout once (G10, G22)."""

from __future__ import annotations

import asyncio
from itertools import chain, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout_budget.client import Breaker
from tests.client.service import TEAM, Fault, House
from tests.client.steps import SPEC, booked, closing, draw


async def test_a_whole_run_without_a_service_is_booked_when_it_comes() -> None:
    """Not even its declaration arrived."""
    house = House()
    house.service.die()
    await house.allocator.create_run(SPEC)
    drawn = await draw(house.allocator, "a", "b")
    await house.allocator.close(SPEC.run_id, closing(**drawn))
    await house.allocator.finish_run(SPEC.run_id)
    assert drawn == {"a": 4, "b": 4}
    assert house.allocator.unreported == 8
    house.service.return_()
    assert await house.allocator.flush()
    assert house.allocator.unreported == 0
    assert await booked(house) == (8, 0)
    assert (await house.service.engine.get_run(TEAM, SPEC.run_id)).status == "finished"
    assert house.said == ["away", "back"]


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.LATE, Fault.SHED, Fault.FAILED])
@pytest.mark.parametrize("stage", range(4))
async def test_g22_a_service_that_dies_at_any_stage_of_a_step_costs_no_rollout(stage: int, fault: Fault) -> None:
    """Declare, open, observe, close: the first answer lost at that stage, and silence after it."""
    house = House()
    house.service.suffer(chain(repeat(Fault.NONE, stage), [fault], repeat(Fault.BEFORE)))
    await house.allocator.create_run(SPEC)
    drawn = await draw(house.allocator, "a", "b", "c")
    await house.allocator.close(SPEC.run_id, closing(**drawn))
    assert house.allocator.degraded
    house.service.return_()
    assert await house.allocator.flush()
    assert sum(await booked(house)) == sum(drawn.values())
    assert house.said == ["away", "back"]


@pytest.mark.parametrize("well", [0, 30, 50, 1000])
async def test_overlapping_groups_are_booked_once_each(well: int) -> None:
    """Many tasks open, observe and close at once; one answer is lost after so many went well."""
    house = House()
    await house.allocator.create_run(SPEC)
    names = [f"g{i}" for i in range(20)]
    house.service.suffer(chain(repeat(Fault.NONE, well), [Fault.AFTER]))

    async def group(name: str) -> int:
        drawn = await draw(house.allocator, name)
        await house.allocator.close(SPEC.run_id, closing(**drawn))
        return drawn[name]

    total = sum(await asyncio.gather(*map(group, names)))
    assert await house.allocator.flush()
    assert sum(await booked(house)) == total


FAULTS = st.lists(
    st.sampled_from([Fault.NONE, Fault.NONE, Fault.BEFORE, Fault.AFTER, Fault.LATE, Fault.SHED, Fault.FAILED]),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(
    faults=FAULTS,
    pauses=st.lists(st.sampled_from([0.0, 1.0, 5.0, 1000.0]), min_size=6, max_size=6),
    limit=st.none() | st.integers(0, 60),
    flaky_end=FAULTS,
)
def test_g10_whatever_is_lost_every_rollout_is_booked_once(
    faults: list[Fault], pauses: list[float], limit: int | None, flaky_end: list[Fault]
) -> None:
    """Random faults of the way there and back over six steps, leases that run out, a budget that ends.

    When the service has been told all, the ledger's committed and overage are what the trainer drew, group by group,
    nothing is held, its counters equal its entries, and every outcome has become evidence once.
    """
    asyncio.run(_whole_run(faults, pauses, limit, flaky_end))


async def _whole_run(faults: list[Fault], pauses: list[float], limit: int | None, flaky_end: list[Fault]) -> None:
    house = House(limit, Breaker(probe_after_s=1.0, probe_after_max_s=4.0))
    await house.service.limit()
    house.service.suffer(faults)
    await house.allocator.create_run(SPEC)
    total: dict[str, int] = {}
    for step, pause in enumerate(pauses):
        drawn = await draw(house.allocator, *(f"s{step}g{i}" for i in range(4)))
        house.service.clock.now += pause
        await house.allocator.close(SPEC.run_id, closing(**drawn))
        total |= drawn
    house.service.suffer(flaky_end)
    await house.allocator.finish_run(SPEC.run_id)
    for _ in flaky_end:
        await house.allocator.flush()
    house.service.return_()
    await house.client.budget()  # what the network still held back arrives now
    assert await house.allocator.flush()
    assert house.allocator.unreported == 0
    assert sum(await booked(house)) == sum(total.values())
    again = await house.client.close(SPEC.run_id, closing(**total))
    assert {group.group_id: group.committed + group.overage for group in again.groups} == total
    assert "refused" not in house.said
    await house.service.engine.deliver_evidence()
    learned = house.service.priors._policies[TEAM, SPEC.policy]
    assert sum(trials for _, trials in learned.by_version.values()) == sum(total.values())
