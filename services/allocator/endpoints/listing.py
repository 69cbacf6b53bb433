"""The route of the list of runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from rollout_budget.wire.access import MAX_PAGE
from rollout_budget.wire.common import Identifier
from rollout_budget.wire.listing import RunsAnswer, RunStatus
from services.allocator.auth import Reader
from services.allocator.database import listing
from services.allocator.endpoints.parts import Parts
from services.kit.problems import documented

router = APIRouter(prefix="/v1", tags=["runs"], responses=documented(401, 403, 422, 429, 503))


@router.get("/runs")
async def runs(
    key: Reader,
    parts: Parts,
    *,
    status: Annotated[RunStatus | None, Query(description="Runs of this status alone.")] = None,
    after: Annotated[Identifier | None, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(description="Most lines of a page.", ge=1, le=MAX_PAGE)] = 100,
) -> RunsAnswer:
    """Return the team's runs in the order of their ids, with what each has drawn."""
    async with parts.store.reading(key.team) as connection:
        return await listing.page(connection, key.team, status=status, after=after or "", limit=limit)
