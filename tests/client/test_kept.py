"""What the allocator was not told outlives the process that should have told it (G22, G24)."""

from __future__ import annotations

from itertools import chain, repeat
from pathlib import Path

import pytest

from rollout_budget.client import ResilientAllocator
from rollout_budget.errors import InvalidInput
from tests.client.service import Fault, House
from tests.client.steps import SPEC, booked, closing, draw, observing, opening


def born(house: House, journal: Path) -> ResilientAllocator:
    """Return the allocator of a process that starts now."""
    return ResilientAllocator(house.client, notify=house.notices.append, clock=house.service.clock, journal=journal)


@pytest.mark.parametrize("away_from", ["open", "observe", "close"])
async def test_g24_a_successor_tells_what_its_predecessor_could_not(tmp_path: Path, away_from: str) -> None:
    """The service dies at each call of a step, then the trainer does; the next one's first call books all of it."""
    house, journal = House(), tmp_path / "untold.jsonl"
    first = born(house, journal)
    await first.create_run(SPEC)
    before = await draw(first, "a", "b")
    await first.close(SPEC.run_id, closing(**before))
    assert not journal.exists()
    if away_from == "open":
        house.service.die()
    opened = await first.open(SPEC.run_id, opening("c", "d"))
    drawn = {group.group_id: group.grant for group in opened.groups}
    if away_from == "observe":
        house.service.die()
    await first.observe(SPEC.run_id, observing(**drawn))
    house.service.die()
    await first.close(SPEC.run_id, closing(**drawn))
    assert first.unreported == sum(drawn.values())

    house.service.return_()
    second = born(house, journal)
    assert second.unreported == first.unreported
    await second.create_run(SPEC)
    assert (second.unreported, journal.exists()) == (0, False)
    assert sum(await booked(house)) == sum(before.values()) + sum(drawn.values())
    assert (await second.finish_run(SPEC.run_id)).status == "finished"


async def test_g24_a_close_that_arrived_unanswered_is_told_again_and_booked_once(tmp_path: Path) -> None:
    """The service had it, the process died before it knew; so did the next one in the middle of telling."""
    house, journal = House(), tmp_path / "untold.jsonl"
    first = born(house, journal)
    await first.create_run(SPEC)
    drawn = await draw(first, "a", "b")
    house.service.suffer(chain([Fault.AFTER], repeat(Fault.BEFORE)))
    await first.close(SPEC.run_id, closing(**drawn))
    house.service.suffer(chain([Fault.NONE, Fault.AFTER], repeat(Fault.BEFORE)))
    await born(house, journal).create_run(SPEC)
    assert journal.exists()
    house.service.return_()
    third = born(house, journal)
    await third.create_run(SPEC)
    assert await booked(house) == (sum(drawn.values()), 0)
    answer = await third.close(SPEC.run_id, closing(**drawn))
    assert [group.committed for group in answer.groups] == list(drawn.values())


async def test_an_outage_over_several_processes(tmp_path: Path) -> None:
    """Each of three processes closes a group that it may tell nobody of; the one that meets the service tells all."""
    house, journal = House(), tmp_path / "untold.jsonl"
    await house.client.create_run(SPEC)
    house.service.die()
    total = 0
    for name in "abc":
        allocator = born(house, journal)
        await allocator.create_run(SPEC)
        drawn = await draw(allocator, name)
        await allocator.close(SPEC.run_id, closing(**drawn))
        total += sum(drawn.values())
        assert allocator.unreported == total
    house.service.return_()
    assert (await born(house, journal).finish_run(SPEC.run_id)).status == "finished"
    assert sum(await booked(house)) == total
    assert not journal.exists()


async def test_a_line_that_was_not_finished_never_was(tmp_path: Path) -> None:
    """Killed while it wrote a close down, the process had not sent it; the groups are open, and closed anew."""
    house, journal = House(), tmp_path / "untold.jsonl"
    first = born(house, journal)
    await first.create_run(SPEC)
    drawn = await draw(first, "a")
    house.service.die()
    await first.close(SPEC.run_id, closing(**drawn))
    journal.write_bytes(journal.read_bytes()[:-20])
    house.service.return_()
    second = born(house, journal)
    assert second.unreported == 0
    await second.create_run(SPEC)
    await second.open(SPEC.run_id, opening("a"))
    await second.observe(SPEC.run_id, observing(**drawn))
    await second.close(SPEC.run_id, closing(**drawn))
    assert await booked(house) == (sum(drawn.values()), 0)


@pytest.mark.parametrize("line", ["{", "[]", '{"run": {}}', '{"told": [["a", 0]], "run_id": "nobody"}'])
def test_another_file_is_refused(tmp_path: Path, line: str) -> None:
    journal = tmp_path / "untold.jsonl"
    journal.write_text(f"{line}\n")
    with pytest.raises(InvalidInput, match=r"untold\.jsonl line 1"):
        born(House(), journal)
