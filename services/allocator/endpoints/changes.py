"""The log of changes: all of it for an admin, its own part for a team."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from rollout_budget.wire import ChangesAnswer
from rollout_budget.wire.access import MAX_PAGE
from rollout_budget.wire.common import MAX_ROLLOUTS, Identifier
from services.allocator.auth import Admin, Reader
from services.allocator.database.changes import Changes
from services.allocator.endpoints.parts import Parts
from services.kit.problems import documented

router = APIRouter(prefix="/v1", tags=["changes"], responses=documented(401, 403, 422, 429, 503))

Subject = Annotated[
    str | None,
    Query(
        description="`team:ID`, `budget:TEAM`, `run:ID` or `key:ID`.",
        min_length=1,
        max_length=220,
        pattern="^[^\\x00-\\x1f\\x7f]+$",
    ),
]
After = Annotated[
    int, Query(description="Number of the last change seen; 0 starts at the first.", ge=0, le=MAX_ROLLOUTS)
]
Limit = Annotated[int, Query(description="Most lines of a page.", ge=1, le=MAX_PAGE)]


@router.get("/admin/changes")
async def list_changes(
    *,
    _key: Admin,
    parts: Parts,
    team: Annotated[Identifier | None, Query(description="Changes about this team alone.")] = None,
    subject: Subject = None,
    after: After = 0,
    limit: Limit = 100,
) -> ChangesAnswer:
    """Return who changed which team, budget, run or key, when, and how; oldest first."""
    async with parts.reading() as directory:
        return await directory.changes(team, subject, after, limit)


@router.get("/changes")
async def changes(
    key: Reader, parts: Parts, subject: Subject = None, after: After = 0, limit: Limit = 100
) -> ChangesAnswer:
    """Return the changes to this team, its budget, its runs and its keys; oldest first."""
    async with parts.store.reading(key.team) as connection:  # behind the second wall
        return await Changes(connection, key).page(key.team, subject, after, limit)
