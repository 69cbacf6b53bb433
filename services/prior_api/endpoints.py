"""Routes of `/v1`: HTTP in, use case, HTTP out. Nothing else happens here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from rollout_budget.wire import (
    EvidenceAnswer,
    EvidenceRequest,
    PoliciesAnswer,
    PolicyView,
    PromptsAnswer,
    PromptsRequest,
    ValuesAnswer,
    ValuesRequest,
)
from rollout_budget.wire.common import Identifier
from services.kit import problems
from services.prior_api import examples
from services.prior_api.auth import Team
from services.prior_api.service import PriorService

router = APIRouter(prefix="/v1", responses=problems.documented(400, 401, 413, 422, 429, 503))


def _service(request: Request) -> PriorService:
    service: PriorService = request.app.state.service
    return service


Service = Annotated[PriorService, Depends(_service)]
PolicyName = Annotated[Identifier, Path(description="Name of a policy; slashes are part of it.")]


@router.post("/values", operation_id="values", tags=["values"], summary="Predict success rates")
async def values(body: Annotated[ValuesRequest, examples.VALUES], team: Team, service: Service) -> ValuesAnswer:
    """One value with its standard error per prompt, from the evidence that the team may learn from."""
    return await service.values(team, body)


@router.post("/prompts", operation_id="register_prompts", tags=["values"], summary="Register texts ahead")
async def register_prompts(
    body: Annotated[PromptsRequest, examples.PROMPTS], team: Team, service: Service
) -> PromptsAnswer:
    """Texts are stored at once and encoded in the background; the same call again says how many are done."""
    return await service.register_prompts(team, body.prompts)


@router.post("/policies/{policy:rest}/evidence", operation_id="add_evidence", tags=["evidence"], summary="Add outcomes")
async def add_evidence(
    policy: PolicyName, body: Annotated[EvidenceRequest, examples.EVIDENCE], team: Team, service: Service
) -> EvidenceAnswer:
    """Append-only and idempotent by row id; the order of receipt does not matter. All rows are stored or none."""
    return await service.add_evidence(team, policy, body)


@router.get("/policies", operation_id="policies", tags=["evidence"], summary="List policies")
async def policies(team: Team, service: Service) -> PoliciesAnswer:
    """The team's own policies, each with its newest version; and what predicts, with the terms of its weights."""
    return PoliciesAnswer(policies=await service.policies(team), model=service.model)


@router.get(
    "/policies/{policy:rest}",
    operation_id="policy",
    tags=["evidence"],
    summary="Show a policy",
    responses=problems.documented(404),
)
async def policy(policy: PolicyName, team: Team, service: Service) -> PolicyView:
    """Evidence by version, and how good the values were that had been given before it came."""
    return await service.policy(team, policy)
