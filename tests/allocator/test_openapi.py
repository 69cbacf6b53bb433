"""G20: the contract is what the committed document says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from rollout_budget.client import AdminClient, AllocatorClient
from services.allocator.__main__ import main, openapi
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
        for answer in errors.values():
            assert answer["content"] == {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            }
        assert operation["security"] == [{"HTTPBearer": []}]


def test_bounds_are_in_the_document() -> None:
    """Lists and strings of requests are bounded where a client generator can see it."""
    schemas = json.loads(openapi())["components"]["schemas"]
    assert schemas["OpenRequest"]["properties"]["groups"]["maxItems"] == 4096
    assert schemas["OpenGroup"]["properties"]["group_id"]["maxLength"] == 200


async def test_the_examples_are_accepted_in_their_order(allocator: Running) -> None:
    """Whoever tries the examples of the document top to bottom meets no error."""
    order = [
        "create_run",
        "plan",
        "open_groups",
        "observe_groups",
        "close_groups",
        "decide",
        "create_team",
        "create_key",
    ]
    found = {operation["operationId"]: (path, operation) for path, _, operation in operations()}
    for name in order:
        path, operation = found[name]
        for example in operation["requestBody"]["content"]["application/json"]["examples"].values():
            headers = {**(allocator.admin if "/admin/" in path else allocator.team), "Idempotency-Key": "example"}
            sent = await allocator.http.post(path.replace("{run_id}", "math-1"), json=example["value"], headers=headers)
            assert sent.status_code in {200, 201}, json.dumps(sent.json())
