"""Routes of whoever runs the service: teams, limits, keys. They need a key of scope admin."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Body, Header, Path, Response

from rollout_budget.wire import BudgetView, Key, KeyCreate, KeysAnswer, KeySecret, Team, TeamCreate, TeamLimits
from rollout_budget.wire.common import Identifier
from services.allocator.auth import Admin
from services.allocator.endpoints import examples
from services.allocator.endpoints.parts import Parts
from services.allocator.errors import MissingIdempotencyKey
from services.kit.problems import documented

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=documented(400, 401, 403, 413, 422, 503))


@router.post("/teams", status_code=201, response_model=Team)
async def create_team(
    request: Annotated[TeamCreate, Body(openapi_examples=examples.TEAM)], _key: Admin, parts: Parts, response: Response
) -> Team:
    """Create a team with its limits; the same id with the same body is safe to repeat."""
    async with parts.directory() as directory:
        team = await directory.add_team(request)
    response.headers["Location"] = f"/v1/admin/budgets/{quote(team.team, safe='')}"
    return team


@router.put("/budgets/{team:segment}", responses=documented(404))
async def set_budget(
    team: Annotated[Identifier, Path(description="Percent-encoded, `/` included.")],
    limits: TeamLimits,
    _key: Admin,
    parts: Parts,
) -> BudgetView:
    """Set a team's limits anew; lower than what is used already is legal and stops new grants only."""
    async with parts.directory() as directory:
        await directory.team(team)
    async with parts.store.transaction() as transaction:
        await transaction.ledger.set_team_limits(team, limits)
        return await transaction.ledger.budget(team)


@router.post("/keys", status_code=201, response_model=KeySecret, responses=documented(400, 404, 409))
async def create_key(
    request: Annotated[KeyCreate, Body(openapi_examples=examples.KEY)],
    _key: Admin,
    parts: Parts,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(description="Required; the same key with the same body answers the same.", min_length=1, max_length=200),
    ] = None,
) -> KeySecret:
    """Create a key. Its token is in this answer and nowhere else."""
    if idempotency_key is None:
        raise MissingIdempotencyKey("POST /v1/admin/keys needs an Idempotency-Key header")
    async with parts.once(idempotency_key), parts.directory() as directory:
        secret = await directory.create_key(request, idempotency_key)
    response.headers["Location"] = f"/v1/admin/keys/{secret.key_id}"
    return secret


@router.get("/keys")
async def list_keys(_key: Admin, parts: Parts) -> KeysAnswer:
    """Return all keys of all teams, without their secrets."""
    async with parts.directory() as directory:
        return KeysAnswer(keys=await directory.keys())


@router.delete("/keys/{key_id:segment}", responses=documented(404))
async def revoke_key(key_id: Annotated[str, Path(min_length=1, max_length=32)], _key: Admin, parts: Parts) -> Key:
    """Revoke a key; again changes nothing."""
    async with parts.directory() as directory:
        revoked = await directory.revoke(key_id)
    parts.door.forget()
    return revoked
