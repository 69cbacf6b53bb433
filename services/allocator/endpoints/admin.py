"""Routes of whoever runs the service: teams, limits, keys. They need a key of scope admin."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Body, Header, Path, Query, Response

from rollout_budget.wire import (
    BudgetView,
    Key,
    KeyCreate,
    KeyRotate,
    KeysAnswer,
    KeySecret,
    Team,
    TeamCreate,
    TeamLimits,
    TeamPatch,
    TeamsAnswer,
)
from rollout_budget.wire.access import MAX_PAGE
from rollout_budget.wire.common import Identifier
from services.allocator.auth import Admin
from services.allocator.endpoints.examples import bodies
from services.allocator.endpoints.parts import Parts
from services.allocator.errors import MissingIdempotencyKey
from services.kit.problems import documented

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=documented(400, 401, 403, 413, 422, 429, 503))

TeamId = Annotated[Identifier, Path(description="Percent-encoded, `/` included.")]
KeyId = Annotated[str, Path(description="`key_id` of the key, not its token.", min_length=1, max_length=32)]
KeyIdQuery = Annotated[str | None, Query(description="`next` of the page before.", min_length=1, max_length=32)]
Limit = Annotated[int, Query(description="Most lines of a page.", ge=1, le=MAX_PAGE)]
Once = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Required; the same key with the same body answers the same.",
        min_length=1,
        max_length=200,
    ),
]


@router.post("/teams", status_code=201, response_model=Team)
async def create_team(
    request: Annotated[TeamCreate, Body(openapi_examples=bodies.TEAM)], key: Admin, parts: Parts, response: Response
) -> Team:
    """Create a team with its limits; the same id with the same body is safe to repeat."""
    async with parts.directory(key) as directory:
        team = await directory.add_team(request)
    response.headers["Location"] = f"/v1/admin/teams/{quote(team.team, safe='')}"
    return team


@router.get("/teams")
async def list_teams(
    _key: Admin,
    parts: Parts,
    after: Annotated[Identifier | None, Query(description="`next` of the page before.")] = None,
    limit: Limit = 100,
) -> TeamsAnswer:
    """Return the teams in the order of their ids."""
    async with parts.reading() as directory:
        return await directory.teams(after or "", limit)


@router.get("/teams/{team:segment}", responses=documented(404))
async def show_team(team: TeamId, _key: Admin, parts: Parts) -> Team:
    """Return a team and its limits."""
    async with parts.reading() as directory:
        return await directory.team(team)


@router.patch("/teams/{team:segment}", responses=documented(404))
async def rename_team(
    team: TeamId, patch: Annotated[TeamPatch, Body(openapi_examples=bodies.RENAME)], key: Admin, parts: Parts
) -> Team:
    """Give a team another name; its id never changes."""
    async with parts.directory(key) as directory:
        return await directory.rename_team(team, patch)


@router.post("/teams/{team:segment}/close", responses=documented(404, 409))
async def close_team(team: TeamId, key: Admin, parts: Parts) -> Team:
    """End all keys of a team and grant it nothing more; nothing is deleted, and again changes nothing."""
    async with parts.directory(key) as directory:
        closed = await directory.close_team(team)
    parts.door.forget()
    return closed


@router.post("/teams/{team:segment}/reopen", responses=documented(404))
async def reopen_team(team: TeamId, key: Admin, parts: Parts) -> Team:
    """Give a closed team its limits again; its keys have ended for good, so make it new ones."""
    async with parts.directory(key) as directory:
        return await directory.reopen_team(team)


@router.get("/budgets/{team:segment}", responses=documented(404))
async def show_budget(team: TeamId, _key: Admin, parts: Parts) -> BudgetView:
    """Return a team's limits, what it has used, and what is left."""
    async with parts.reading() as directory:
        return await directory.budget(team)


@router.put("/budgets/{team:segment}", responses=documented(404, 409))
async def set_budget(
    team: TeamId,
    limits: Annotated[TeamLimits, Body(openapi_examples=bodies.LIMITS)],
    key: Admin,
    parts: Parts,
    if_match: Annotated[
        str | None,
        Header(
            description="SHA-256 of the limits that these are made from, as `rollout_budget` forms it; "
            "where others stand, 409 and nothing changes.",
            max_length=64,
        ),
    ] = None,
) -> BudgetView:
    """Set a team's limits anew; lower than what is used already is legal and stops new grants only."""
    async with parts.directory(key) as directory:
        return await directory.set_budget(team, limits, if_match)


@router.post("/keys", status_code=201, response_model=KeySecret, responses=documented(400, 404, 409))
async def create_key(
    request: Annotated[KeyCreate, Body(openapi_examples=bodies.KEY)],
    key: Admin,
    parts: Parts,
    response: Response,
    idempotency_key: Once = None,
) -> KeySecret:
    """Create a key. Its token is in this answer and nowhere else."""
    if idempotency_key is None:
        raise MissingIdempotencyKey("POST /v1/admin/keys needs an Idempotency-Key header")
    async with parts.directory(key) as directory:
        secret = await directory.create_key(request, idempotency_key)
    response.headers["Location"] = f"/v1/admin/keys/{secret.key_id}"
    return secret


@router.get("/keys")
async def list_keys(
    _key: Admin,
    parts: Parts,
    team: Annotated[Identifier | None, Query(description="Keys of this team alone.")] = None,
    after: KeyIdQuery = None,
    limit: Limit = 100,
) -> KeysAnswer:
    """Return keys without their secrets, oldest first."""
    async with parts.reading() as directory:
        return await directory.keys(team, after, limit)


@router.post(
    "/keys/{key_id:segment}/rotate", status_code=201, response_model=KeySecret, responses=documented(400, 404, 409)
)
async def rotate_key(
    key_id: KeyId,
    request: Annotated[KeyRotate, Body(openapi_examples=bodies.ROTATION)],
    *,
    key: Admin,
    parts: Parts,
    response: Response,
    idempotency_key: Once = None,
) -> KeySecret:
    """Replace a key by a new one of the same team, scope, label and lifetime; the old one ends after `grace_s`."""
    if idempotency_key is None:
        raise MissingIdempotencyKey("POST /v1/admin/keys/{key_id}/rotate needs an Idempotency-Key header")
    async with parts.directory(key) as directory:
        secret = await directory.rotate_key(key_id, request, idempotency_key)
    parts.door.forget()
    response.headers["Location"] = f"/v1/admin/keys/{secret.key_id}"
    return secret


@router.delete("/keys/{key_id:segment}", responses=documented(404))
async def revoke_key(key_id: KeyId, key: Admin, parts: Parts) -> Key:
    """Revoke a key; again changes nothing."""
    async with parts.directory(key) as directory:
        revoked = await directory.revoke(key_id)
    parts.door.forget()
    return revoked
