"""The routes of `/v1` that a trainer uses, straight to an `Engine`: what the service proper adds is storage, keys, metrics."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import httpx

from rollout_budget.engine import Engine
from rollout_budget.errors import RolloutBudgetError
from rollout_budget.wire import (
    BaselinesRequest,
    CloseRequest,
    DecideRequest,
    ObserveRequest,
    OpenRequest,
    PlanRequest,
    Problem,
    RunPatch,
    RunSpec,
)

Handler = Callable[..., Awaitable[Any]]
"""Takes the engine, the team, the body and the ids in the path."""


def target(request: httpx.Request) -> str:
    """Return `METHOD /path?query` as it was sent."""
    return f"{request.method} {request.url.raw_path.decode()}"


async def respond(engine: Engine, team: str, request: httpx.Request) -> httpx.Response:
    """Answer a request in the name of a team; what the engine refuses becomes problem+json."""
    for pattern, handler in ROUTES:
        if (match := re.fullmatch(pattern, target(request))) is not None:
            ids = [unquote(part) for part in match.groups()]
            try:
                answer = await handler(engine, team, request.content, *ids)
            except RolloutBudgetError as error:
                return problem(error.status, error.code, str(error), retryable=error.retryable)
            return httpx.Response(200, content=answer.model_dump_json())
    return problem(404, "not-found", target(request), retryable=False)


def problem(status: int, code: str, detail: str, *, retryable: bool) -> httpx.Response:
    """Return an error as the services answer it."""
    body = Problem(title="Problem", status=status, detail=detail, code=code, retryable=retryable)
    return httpx.Response(
        status, headers={"content-type": "application/problem+json"}, content=body.model_dump_json().encode()
    )


ROUTES: list[tuple[str, Handler]] = [
    (r"POST /v1/runs", lambda e, team, body: e.create_run(team, RunSpec.model_validate_json(body))),
    (r"GET /v1/runs/([^/]+)", lambda e, team, _, run: e.get_run(team, run)),
    (
        r"PATCH /v1/runs/([^/]+)",
        lambda e, team, body, run: e.patch_run(team, run, RunPatch.model_validate_json(body)),
    ),
    (r"POST /v1/runs/([^/]+)/finish", lambda e, team, _, run: e.finish_run(team, run)),
    (r"POST /v1/runs/([^/]+)/heartbeat", lambda e, team, _, run: e.heartbeat(team, run)),
    (
        r"POST /v1/runs/([^/]+)/plan",
        lambda e, team, body, run: e.plan(team, run, PlanRequest.model_validate_json(body)),
    ),
    (
        r"POST /v1/runs/([^/]+)/groups/open",
        lambda e, team, body, run: e.open(team, run, OpenRequest.model_validate_json(body)),
    ),
    (
        r"POST /v1/runs/([^/]+)/groups/observe",
        lambda e, team, body, run: e.observe(team, run, ObserveRequest.model_validate_json(body)),
    ),
    (
        r"POST /v1/runs/([^/]+)/groups/close",
        lambda e, team, body, run: e.close(team, run, CloseRequest.model_validate_json(body)),
    ),
    (
        r"POST /v1/runs/([^/]+)/baselines",
        lambda e, team, body, run: e.baselines(team, run, BaselinesRequest.model_validate_json(body)),
    ),
    (r"POST /v1/decide", lambda e, _team, body: e.decide(DecideRequest.model_validate_json(body))),
    (r"GET /v1/budget", lambda e, team, _: e.budget(team)),
    (r"GET /v1/usage\?by=team", lambda e, team, _: e.usage(team, ("team",))),
    (r"GET /v1/reservations/(.+)", lambda e, team, _, reservation: e.reservation(team, reservation)),
]
