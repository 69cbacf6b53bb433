"""How a client that stops no trainer opens groups at the service: with their plans, or without those that are gone.

The service keeps the newest plans of a run (`PLANS_KEPT`). A trainer with many steps at once, one of which waited long
for an answer, may open a group whose plan is not among them any more: it is opened all the same, with weight 1.
"""

from __future__ import annotations

from rollout_budget.client.base import Allocator
from rollout_budget.client.fallback import Memory
from rollout_budget.errors import NotFound
from rollout_budget.wire import OpenAnswer, OpenRequest


async def open_there(
    client: Allocator, memory: Memory, run_id: str, request: OpenRequest
) -> tuple[OpenRequest, OpenAnswer]:
    """Open groups at the service; return what was asked in the end, and the answer.

    Raises:
        NotFound: the service does not know the run, or neither it nor this process a plan. For all else see
            `Allocator.open`.
    """
    try:
        return request, await client.open(run_id, request)
    except NotFound:
        again = memory.without_plans(request)
        if again is None:
            raise
    return again, await client.open(run_id, again)
