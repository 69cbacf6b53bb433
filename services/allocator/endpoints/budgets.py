"""Routes of budgets, reservations and the record: what a team may see of its own accounts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from rollout_budget.wire import (
    MAX_ROLLOUTS,
    BudgetView,
    EntriesAnswer,
    EntryKind,
    ReservationView,
)
from rollout_budget.wire.access import MAX_PAGE
from rollout_budget.wire.common import Identifier
from services.allocator.auth import Reader
from services.allocator.endpoints.parts import Parts
from services.kit.problems import documented

router = APIRouter(prefix="/v1", tags=["budgets"], responses=documented(401, 403, 422, 429, 503))


@router.get("/budget")
async def budget(key: Reader, parts: Parts) -> BudgetView:
    """Return the team's limits, what it has used, and what is left."""
    return await parts.engine.budget(key.team)


@router.get("/entries")
async def entries(
    key: Reader,
    parts: Parts,
    *,
    kind: Annotated[EntryKind | None, Query(description="Lines of this kind alone.")] = None,
    run: Annotated[Identifier | None, Query(description="Lines of this run alone.")] = None,
    after: Annotated[int, Query(description="`next` of the page before.", ge=0, le=MAX_ROLLOUTS)] = 0,
    limit: Annotated[int, Query(description="Most lines of a page.", ge=1, le=MAX_PAGE)] = 100,
) -> EntriesAnswer:
    """Return lines of the ledger's append-only record, `kind=overage` for one: a page read once stays as it is."""
    return await parts.engine.entries(key.team, kind, run, after=after, limit=limit)


@router.get("/reservations/{reservation_id:rest}", responses=documented(404))
async def reservation(
    reservation_id: Annotated[str, Path(description="`run/group/attempt/wave`.", max_length=5_000, pattern="^[!-~]+$")],
    key: Reader,
    parts: Parts,
) -> ReservationView:
    """Return what became of a grant."""
    return await parts.engine.reservation(key.team, reservation_id)
