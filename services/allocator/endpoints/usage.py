"""The route of usage: who drew how much, when, for which policy; in pages, as JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field

from rollout_budget.errors import InvalidInput
from rollout_budget.wire import Dimension, RolloutCounts, UsageAnswer, UsageQuery, UsageRow
from rollout_budget.wire.common import Identifier
from services.allocator.auth import Admin, Reader
from services.allocator.endpoints.parts import Parts
from services.kit.problems import documented

CSV = "text/csv"
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)

router = APIRouter(prefix="/v1", tags=["budgets"], responses=documented(401, 403, 422, 429, 503))


class Asked(UsageQuery):
    """The question as it stands in the URL."""

    by: str = Field(
        default="team",
        description="Dimensions, comma-separated: `team`, `run`, `policy`, `day`.",
        max_length=40,
        examples=["run,day"],
    )
    format: Literal["json", "csv"] | None = Field(default=None, description="Overrides `Accept`.")


_NEXT: dict[str, Any] = {"Link": {"description": "The next page, `rel=next`.", "schema": {"type": "string"}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {CSV: {"schema": {"type": "string"}}}, "headers": _NEXT},
}


Accept = Annotated[str, Header(description="`text/csv` asks for CSV; anything else is answered as JSON.")]


class AskedByAdmin(Asked):
    """The same of any team, or of all."""

    team: Identifier | None = Field(default=None, description="This team alone.")


@router.get("/admin/usage", responses=_ANSWERS | documented(404), response_model=UsageAnswer)
async def show_usage(
    _key: Admin,
    parts: Parts,
    *,
    asked: Annotated[AskedByAdmin, Query()],
    request: Request,
    response: Response,
    accept: Accept = "",
) -> UsageAnswer | Response:
    """Return the rollouts of a team, or of all, grouped; as CSV likewise."""
    async with parts.reading() as directory:
        answer = await directory.usage(asked.team, _dimensions(asked.by), asked)
    return _page(answer, asked, request=request, response=response, accept=accept)


@router.get("/usage", responses=_ANSWERS, response_model=UsageAnswer)
async def usage(
    key: Reader,
    parts: Parts,
    *,
    asked: Annotated[Asked, Query()],
    request: Request,
    response: Response,
    accept: Accept = "",
) -> UsageAnswer | Response:
    """Return the team's rollouts, grouped; as CSV with `Accept: text/csv` or `?format=csv`."""
    answer = await parts.engine.usage(key.team, _dimensions(asked.by), asked)
    return _page(answer, asked, request=request, response=response, accept=accept)


def _page(
    answer: UsageAnswer, asked: Asked, *, request: Request, response: Response, accept: str
) -> UsageAnswer | Response:
    """Return a page in the form that was asked for, with a link to the next."""
    headers = {}
    if answer.next is not None:
        following = urlencode({**request.query_params, "after": answer.next})
        headers["Link"] = f'<{request.url.path}?{following}>; rel="next"'
    if asked.format == "csv" or (asked.format is None and accept.startswith(CSV)):
        return Response(_table(_dimensions(asked.by), answer.rows), media_type=CSV, headers=headers)
    response.headers.update(headers)
    return answer


def _dimensions(by: str) -> list[Dimension]:
    named = by.split(",")
    found = [dimension for dimension in DIMENSIONS if dimension in named]
    if len(found) != len(named):
        raise InvalidInput(f"`by` lists some of {', '.join(DIMENSIONS)}, each once; got {by!r}")
    return found


def _table(by: Sequence[Dimension], rows: Sequence[UsageRow]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    counts, derived = list(RolloutCounts.model_fields), list(UsageRow.model_computed_fields)
    writer.writerow([*by, *counts, *derived])
    writer.writerows(
        [
            *(getattr(row, one) for one in by),
            *(getattr(row.counts, one) for one in counts),
            *(getattr(row, one) for one in derived),
        ]
        for row in rows
    )
    return out.getvalue()
