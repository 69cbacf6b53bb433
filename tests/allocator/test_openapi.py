"""G20: the contract is what the committed document says, and its examples are what the service answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from rollout_budget.client import AdminClient, AllocatorClient
from services.allocator.__main__ import main, openapi
from services.allocator.endpoints.examples import access, budgets, decisions, runs
from services.kit.examples import dumped
from tests.allocator.running import Running
from tests.paths import ROOT

COMMITTED = ROOT / "docs" / "api" / "allocator.json"


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in json.loads(openapi())["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_the_committed_document_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    """Regenerate it with `python -m services.allocator openapi > docs/api/allocator.json`."""
    assert main(["openapi"]) == 0
    assert capsys.readouterr().out == COMMITTED.read_text()


def test_operations_have_stable_names_like_the_clients_methods() -> None:
    """Every route of the interface is named, once, and the client has a method for it."""
    names = [operation["operationId"] for path, _, operation in operations() if path.startswith("/v1")]
    assert len(set(names)) == len(names)
    methods = {name for client in (AllocatorClient, AdminClient) for name in dir(client) if not name.startswith("_")}
    assert {name.removesuffix("_groups") for name in names} <= methods


def test_every_error_is_documented_as_a_problem() -> None:
    """Every non-2xx answer of the interface has the schema of `Problem` as problem+json and as nothing else."""
    for path, _, operation in operations():
        if not path.startswith("/v1"):
            continue
        errors = {status: answer for status, answer in operation["responses"].items() if not status.startswith("2")}
        assert {"401", "403", "503"} <= set(errors)
        for status, answer in errors.items():
            assert list(answer["content"]) == ["application/problem+json"]
            content = answer["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert content["examples"] == {"problem": {"$ref": f"#/components/examples/problem_{status}"}}
        assert operation["security"] == [{"HTTPBearer": []}]


def test_bounds_are_in_the_document() -> None:
    """Lists and strings of requests are bounded where a client generator can see it."""
    schemas = json.loads(openapi())["components"]["schemas"]
    assert schemas["OpenRequest"]["properties"]["groups"]["maxItems"] == 4096
    assert schemas["OpenGroup"]["properties"]["group_id"]["maxLength"] == 200


ORDER = (
    "create_team",
    "rename_team",
    "set_budget",
    "create_key",
    "create_run",
    "plan",
    "open_groups",
    "observe_groups",
    "baselines",
    "close_groups",
    "patch_run",
    "decide",
    "rotate_key",
)
"""Operations with bodies, as a newcomer would try them."""


async def test_every_example_of_a_body_is_accepted_in_its_order(allocator: Running) -> None:
    """Whoever tries the examples of the document top to bottom meets no error; no operation with a body has none."""
    found = {operation["operationId"]: (path, method, operation) for path, method, operation in operations()}
    assert {name for name, (_, _, operation) in found.items() if "requestBody" in operation} == set(ORDER)
    key = ""
    for name in ORDER:
        path, method, operation = found[name]
        url = path.format(run_id="math-1", team="research", key_id=key) if "{" in path else path
        for example in operation["requestBody"]["content"]["application/json"]["examples"].values():
            headers = {**(allocator.admin if "/admin/" in path else allocator.team), "Idempotency-Key": name}
            sent = await allocator.http.request(method, url, json=example["value"], headers=headers)
            assert sent.status_code in {200, 201}, f"{name}: {json.dumps(sent.json())}"
            key = sent.json().get("key_id", key)


async def test_the_examples_are_what_the_service_answers(allocator: Running) -> None:
    """A fresh allocator answers the story's requests as its examples say, but for clocks, ids and rounding."""
    key: dict[str, str] = {}

    async def same(method: str, path: str, request: Any, expected: Any) -> dict[str, Any]:
        headers = {**(key or allocator.admin), "Idempotency-Key": "story"}
        body = None if request is None else dumped(request)
        sent = await allocator.http.request(method, f"/v1{path}", json=body, headers=headers)
        answer: dict[str, Any] = sent.json()
        assert sent.status_code in {200, 201}, answer
        assert steady(answer) == steady(dumped(expected)), path
        return answer

    await same("POST", "/admin/teams", access.NEW_TEAM, access.TEAM)
    secret = await same("POST", "/admin/keys", access.NEW_KEY, access.SECRET)
    key = allocator.bearer(secret["token"])
    await allocator.http.post("/v1/runs", json=dumped(runs.RUN), headers=key)
    groups = "/runs/math-1/groups"
    await same("POST", "/runs/math-1/plan", runs.PLAN, decisions.PLANNED)
    await same("POST", f"{groups}/open", runs.OPEN, decisions.OPENED)
    await same("POST", f"{groups}/observe", runs.OBSERVE, decisions.OBSERVED)
    await same("POST", "/runs/math-1/baselines", runs.BASELINES, decisions.REMEMBERED)
    await same("POST", "/runs/math-1/heartbeat", None, decisions.RENEWED)
    await same("POST", f"{groups}/close", runs.CLOSE, decisions.CLOSED)
    await same("POST", "/decide", runs.DECIDE, decisions.DECIDED)
    await same("GET", "/runs/math-1", None, budgets.SHOWN)
    await same("GET", "/runs", None, budgets.RUNS)
    await same("GET", "/budget", None, budgets.BUDGET)
    await same("GET", "/usage?by=run,day", None, budgets.USAGE)
    await same("GET", "/entries?limit=3", None, budgets.ENTRIES)
    await same("GET", "/reservations/math-1/step0-p1/0/0", None, budgets.RESERVATION)


UNSTEADY = {"created_at", "expires_at", "expires_in_s", "key_id", "token", "day"}
"""Fields that differ from one allocator, or day, to the next."""


def steady(answer: Any) -> Any:
    """Return an answer without what differs each time, its fractions as the examples round them."""
    if isinstance(answer, dict):
        return {name: steady(part) for name, part in answer.items() if name not in UNSTEADY}
    if isinstance(answer, list):
        return [steady(part) for part in answer]
    return float(f"{answer:.4g}") if isinstance(answer, float) else answer
