"""Short ways to call an allocator about the one run that a test uses."""

from __future__ import annotations

from rollout_budget.client.base import Allocator
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    Decision,
    ObserveGroup,
    ObserveRequest,
    OpenAnswer,
    OpenGroup,
    OpenRequest,
    RunSpec,
)


async def start(allocator: Allocator, **settings: object) -> None:
    """Declare the run that all tests use."""
    await allocator.create_run(RunSpec.model_validate({"run_id": "run", "policy": "p", "k_init": 4, **settings}))


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
