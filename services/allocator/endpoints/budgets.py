"""Routes of budgets, usage and reservations: what a team may see of its own accounts."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Header, Path, Query, Response

from rollout_budget.errors import InvalidInput
from rollout_budget.wire import BudgetView, Dimension, ReservationView, RolloutCounts, UsageAnswer, UsageRow
from services.allocator.auth import Reader
from services.allocator.endpoints.parts import Parts
from services.kit.problems import documented

CSV = "text/csv"
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)

router = APIRouter(prefix="/v1", tags=["budgets"], responses=documented(401, 403, 422, 429, 503))


@router.get("/budget")
async def budget(key: Reader, parts: Parts) -> BudgetView:
    """Return the team's limits, what it has used, and what is left."""
    return await parts.engine.budget(key.team)


@router.get("/usage", responses={200: {"content": {CSV: {"schema": {"type": "string"}}}}}, response_model=UsageAnswer)
async def usage(
    key: Reader,
    parts: Parts,
    by: Annotated[
        str,
        Query(description="Dimensions, comma-separated: `team`, `run`, `day`.", max_length=40, examples=["run,day"]),
    ] = "team",
    format: Annotated[Literal["json", "csv"] | None, Query(description="Overrides `Accept`.")] = None,  # noqa: A002  its name on the wire
    accept: Annotated[str, Header()] = "",
) -> UsageAnswer | Response:
    """Return the team's rollouts, grouped; as CSV with `Accept: text/csv` or `?format=csv`."""
    dimensions = _dimensions(by)
    answer = await parts.engine.usage(key.team, dimensions)
    if format == "csv" or (format is None and accept.startswith(CSV)):
        return Response(_table(dimensions, answer.rows), media_type=CSV)
    return answer


@router.get("/reservations/{reservation_id:rest}", responses=documented(404))
async def reservation(
    reservation_id: Annotated[str, Path(description="`run/group/attempt/wave`.", max_length=5_000, pattern="^[!-~]+$")],
    key: Reader,
    parts: Parts,
) -> ReservationView:
    """Return what became of a grant."""
    return await parts.engine.reservation(key.team, reservation_id)


def _dimensions(by: str) -> list[Dimension]:
    named = by.split(",")
    found = [dimension for dimension in DIMENSIONS if dimension in named]
    if len(found) != len(named):
        raise InvalidInput(f"`by` lists some of {', '.join(DIMENSIONS)}, each once; got {by!r}")
    return found


def _table(by: Sequence[Dimension], rows: Sequence[UsageRow]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    counts = list(RolloutCounts.model_fields)
    writer.writerow([*by, *counts])
    writer.writerows(
        [*(getattr(row, one) for one in by), *(getattr(row.counts, one) for one in counts)] for row in rows
    )
    return out.getvalue()
