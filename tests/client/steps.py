"""A training step as a trainer takes it, and what the ledger says of it afterwards."""

from __future__ import annotations

from rollout_budget.client import Allocator
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    RunSpec,
)
from tests.client.service import TEAM, House

SPEC = RunSpec(run_id="run/1", policy="p", k_init=4, k_max=12, price=0.0005)


def outcomes(name: str, number: int) -> list[float]:
    """The first `number` outcomes of a group: the same whenever they are asked for."""
    return [float((hash_of(name) >> i) & 1) for i in range(number)]


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode() * 4, "big") * 2654435761 % 2**64


def opening(*names: str, lease_s: float = 900.0, **more: object) -> OpenRequest:
    return OpenRequest(groups=[OpenGroup(group_id=name, prompt_key=name, **more) for name in names], lease_s=lease_s)


def observing(**drawn: int) -> ObserveRequest:
    return ObserveRequest(groups=[ObserveGroup(group_id=n, outcomes=outcomes(n, k)) for n, k in drawn.items()])


def closing(**drawn: int) -> CloseRequest:
    return CloseRequest(groups=[CloseGroup(group_id=name, used=number) for name, number in drawn.items()])


async def draw(allocator: Allocator, *names: str) -> dict[str, int]:
    """Train on groups as a trainer does, and return how many rollouts each was really drawn."""
    opened = await allocator.open(SPEC.run_id, opening(*names))
    drawn = {group.group_id: group.grant for group in opened.groups}
    going = [name for name in names if drawn[name]]
    while going:
        answer = await allocator.observe(SPEC.run_id, observing(**{name: drawn[name] for name in going}))
        for decision in answer.groups:
            drawn[decision.group_id] += decision.more
        going = [decision.group_id for decision in answer.groups if decision.more]
    return drawn


async def booked(house: House) -> tuple[int, int]:
    """Rollouts committed and booked as overage, by the ledger; nothing may be held, no counter may differ."""
    usage = (await house.service.engine.get_run(TEAM, SPEC.run_id)).usage
    assert usage.reserved == 0
    assert await house.service.engine.audit() == []
    return usage.committed, usage.overage
