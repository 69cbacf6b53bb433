"""Routes of runs, their groups and stateless decisions: one line each between HTTP and the engine.

A run id may hold any character but controls; in a path it is percent-encoded, `/` included.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Body, Path, Response
from pydantic import BaseModel

from rollout_budget.wire import (
    BaselinesAnswer,
    BaselinesRequest,
    CloseAnswer,
    CloseRequest,
    DecideAnswer,
    DecideRequest,
    HeartbeatAnswer,
    ObserveAnswer,
    ObserveRequest,
    OpenAnswer,
    OpenRequest,
    PlanAnswer,
    PlanRequest,
    Run,
    RunPatch,
    RunSpec,
)
from rollout_budget.wire.common import Identifier
from services.allocator import patching
from services.allocator.auth import Reader, Writer
from services.allocator.endpoints.examples import bodies
from services.allocator.endpoints.parts import Parts
from services.kit.problems import documented

router = APIRouter(prefix="/v1", tags=["runs"], responses=documented(400, 401, 403, 413, 422, 429, 503))
RunId = Annotated[Identifier, Path(description="Percent-encoded, `/` included.")]
_UNKNOWN = documented(404)
_ENDED = documented(404, 409)


@router.post("/runs", status_code=201, response_model=Run, responses=_UNKNOWN)
async def create_run(
    spec: Annotated[RunSpec, Body(openapi_examples=bodies.RUN)], key: Writer, parts: Parts, response: Response
) -> Run:
    """Declare a run; the same id with the same body is safe to repeat, with another body it is 422."""
    run = await parts.engine.create_run(key.team, spec)
    response.headers["Location"] = f"/v1/runs/{quote(spec.run_id, safe='')}"
    return run


@router.post("/runs/{run_id:segment}/finish", responses=_UNKNOWN)
async def finish_run(run_id: RunId, key: Writer, parts: Parts) -> Run:
    """End a run: what is still held goes back; no new grants."""
    run = await parts.engine.finish_run(key.team, run_id)
    parts.delivery.wake()
    return run


@router.post("/runs/{run_id:segment}/heartbeat", responses=_UNKNOWN)
async def heartbeat(run_id: RunId, key: Writer, parts: Parts) -> HeartbeatAnswer:
    """Renew all leases of a run."""
    return await parts.engine.heartbeat(key.team, run_id)


@router.post("/runs/{run_id:segment}/plan", responses=_ENDED)
async def plan(
    run_id: RunId, request: Annotated[PlanRequest, Body(openapi_examples=bodies.PLAN)], key: Writer, parts: Parts
) -> PlanAnswer:
    """Choose which prompts to open within a budget: by expected signal, each with a known chance."""
    async with _timed(parts, "plan"):
        answer = await parts.engine.plan(key.team, run_id, request)
    if answer.degraded:
        parts.metrics.degraded_plans.inc()
    return answer


@router.post("/runs/{run_id:segment}/groups/open", response_model=OpenAnswer, responses=_ENDED)
async def open_groups(
    run_id: RunId, request: Annotated[OpenRequest, Body(openapi_examples=bodies.OPEN)], key: Writer, parts: Parts
) -> Response:
    """Open groups: a frozen prior and a first grant each."""
    async with _timed(parts, "open"):
        answer = await parts.engine.open(key.team, run_id, request)
    return _written(answer)


@router.post("/runs/{run_id:segment}/groups/observe", response_model=ObserveAnswer, responses=_UNKNOWN)
async def observe_groups(
    run_id: RunId,
    request: Annotated[ObserveRequest, Body(openapi_examples=bodies.OBSERVE)],
    key: Writer,
    parts: Parts,
) -> Response:
    """Send all outcomes so far; get decisions, baselines and advantages, and the next grants."""
    async with _timed(parts, "observe"):
        return _written(await parts.engine.observe(key.team, run_id, request))


@router.post("/runs/{run_id:segment}/groups/close", response_model=CloseAnswer, responses=_UNKNOWN)
async def close_groups(
    run_id: RunId, request: Annotated[CloseRequest, Body(openapi_examples=bodies.CLOSE)], key: Writer, parts: Parts
) -> Response:
    """Commit what was used, release the rest, turn outcomes into evidence."""
    async with _timed(parts, "close"):
        return _written(await parts.engine.close(key.team, run_id, request))


@router.post("/runs/{run_id:segment}/baselines", responses=_UNKNOWN)
async def baselines(
    run_id: RunId,
    request: Annotated[BaselinesRequest, Body(openapi_examples=bodies.BASELINES)],
    key: Reader,
    parts: Parts,
) -> BaselinesAnswer:
    """Return the last baselines and advantages of groups by id."""
    return await parts.engine.baselines(key.team, run_id, request)


@router.get("/runs/{run_id:segment}", responses=_UNKNOWN)
async def get_run(run_id: RunId, key: Reader, parts: Parts) -> Run:
    """Return a run with its usage and what it has learned of its prior."""
    return await parts.engine.get_run(key.team, run_id)


@router.patch("/runs/{run_id:segment}", responses=_UNKNOWN)
async def patch_run(
    run_id: RunId, patch: Annotated[RunPatch, Body(openapi_examples=bodies.PATCH)], key: Writer, parts: Parts
) -> Run:
    """Change price or limits; lowering a limit below use is legal and stops new grants only."""
    return await patching.patch_run(parts.store, key, run_id, patch)


@router.post("/decide")
async def decide(
    request: Annotated[DecideRequest, Body(openapi_examples=bodies.DECIDE)], _key: Reader, parts: Parts
) -> DecideAnswer:
    """Decide without a run and without a ledger; nothing is stored."""
    async with _timed(parts, "decide"):
        return await parts.engine.decide(request)


def _written(answer: BaseModel) -> Response:
    """Return a large answer as it goes out: it is valid already, so the framework need not check it once more."""
    return Response(answer.__pydantic_serializer__.to_json(answer), media_type="application/json")


@asynccontextmanager
async def _timed(parts: Parts, call: str) -> AsyncIterator[None]:
    began = time.perf_counter()
    yield
    parts.metrics.decided(call, time.perf_counter() - began)
