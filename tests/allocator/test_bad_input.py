"""G16 and the contract's section 5: bad input of every kind answers as stated and stores nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollout_budget.wire import MAX_GROUPS, MAX_PROMPT_CHARS, MAX_ROLLOUTS, MAX_ROLLOUTS_PER_GROUP
from tests.allocator.databases import fresh_sqlite
from tests.allocator.running import Running, running

OPEN, OBSERVE, CLOSE = "runs/r/groups/open", "runs/r/groups/observe", "runs/r/groups/close"
GROUP = {"group_id": "new", "prompt_key": "k"}
OBSERVED = {"group_id": "g", "outcomes": [1.0]}


def batch(*groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"groups": list(groups), **more}


BAD: dict[str, tuple[str, Any]] = {
    "outcome outside the range": (OBSERVE, batch({"group_id": "g", "outcomes": [1.5]})),
    "outcome below the range": (OBSERVE, batch({"group_id": "g", "outcomes": [-0.1]})),
    "outcome not a number": (OBSERVE, '{"groups": [{"group_id": "g", "outcomes": [NaN]}]}'),
    "outcome infinite": (OBSERVE, '{"groups": [{"group_id": "g", "outcomes": [Infinity]}]}'),
    "outcome beyond a double": (OBSERVE, '{"groups": [{"group_id": "g", "outcomes": [1e999]}]}'),
    "one bad group of two": (OBSERVE, batch(OBSERVED, {"group_id": "h", "outcomes": [2.0]})),
    "id twice in observe": (OBSERVE, batch(OBSERVED, OBSERVED)),
    "id twice in open": (OPEN, batch(GROUP, GROUP)),
    "id twice in close": (CLOSE, batch({"group_id": "g", "used": 1}, {"group_id": "g", "used": 1})),
    "id twice in baselines": ("runs/r/baselines", {"group_ids": ["g", "g"]}),
    "rewards of another length": (OBSERVE, batch({**OBSERVED, "rewards": [1.0, 2.0]})),
    "more outcomes than the bound": (
        OBSERVE,
        batch({"group_id": "g", "outcomes": [0.0] * (MAX_ROLLOUTS_PER_GROUP + 1)}),
    ),
    "more groups than the bound": (OPEN, batch(*({**GROUP, "group_id": str(i)} for i in range(MAX_GROUPS + 1)))),
    "no group": (OPEN, batch()),
    "prompt too long": (OPEN, batch({**GROUP, "prompt": "x" * (MAX_PROMPT_CHARS + 1)})),
    "id too long": (OPEN, batch({**GROUP, "group_id": "x" * 201})),
    "id empty": (OPEN, batch({**GROUP, "group_id": ""})),
    "id with a control character": (OPEN, batch({**GROUP, "group_id": "a\u0000b"})),
    "half a surrogate pair": (OPEN, '{"groups": [{"group_id": "\\ud800", "prompt_key": "k"}]}'),
    "field unknown": (OPEN, batch({**GROUP, "lease": 3})),
    "prior outside the range": (OPEN, batch({**GROUP, "prior": {"value": 7.0}})),
    "prior not a number": (OPEN, '{"groups": [{"group_id": "n", "prompt_key": "k", "prior": {"value": NaN}}]}'),
    "lease of nothing": (OPEN, batch(GROUP, lease_s=0)),
    "lease of ages": (OPEN, batch(GROUP, lease_s=1e9)),
    "same id with another body": (OPEN, batch({"group_id": "g", "prompt_key": "other"})),
    "used below nothing": (CLOSE, batch({"group_id": "g", "used": -1})),
    "a count as text": (CLOSE, batch({"group_id": "g", "used": "1"})),
    "a count as truth": (CLOSE, batch({"group_id": "g", "used": True})),
    "an outcome as text": (OBSERVE, batch({"group_id": "g", "outcomes": ["1"]})),
    "an outcome as truth": (OBSERVE, batch({"group_id": "g", "outcomes": [True]})),
    "an attempt as text": (OPEN, batch({**GROUP, "attempt": "1"})),
    "a version as truth": (OPEN, batch({**GROUP, "policy_version": True})),
    "a lease as text": (OPEN, batch(GROUP, lease_s="900")),
    "a group size as text": ("runs", {"run_id": "n", "policy": "p", "k_max": "8"}),
    "a price as truth": ("runs", {"run_id": "n", "policy": "p", "price": True}),
    "used at 2^31": (CLOSE, batch({"group_id": "g", "used": 2**31})),
    "tokens at 2^53": (CLOSE, batch({"group_id": "g", "used": 1, "tokens": MAX_ROLLOUTS + 1})),
    "tokens at 2^63": (CLOSE, batch({"group_id": "g", "used": 1, "tokens": 2**63})),
    "seconds beyond all time": (CLOSE, batch({"group_id": "g", "used": 1, "seconds": 1e300})),
    "more outcomes than used": (CLOSE, batch({"group_id": "g", "used": 1, "outcomes": [1.0, 0.0]})),
    "a limit below nothing": ("runs", {"run_id": "n", "policy": "p", "limits": {"rollouts": -1}}),
    "a range without width": ("runs", {"run_id": "n", "policy": "p", "outcome_range": {"low": 1, "high": 1}}),
    "an unknown estimator": ("runs", {"run_id": "n", "policy": "p", "estimator": "magic"}),
    "a run again with another body": ("runs", {"run_id": "r", "policy": "other"}),
    "first wave above the most": ("runs", {"run_id": "n", "policy": "p", "k_init": 9, "k_max": 8}),
    "a version at 2^31": (OPEN, batch({**GROUP, "policy_version": 2**31})),
    "not JSON": (OPEN, "{"),
    "not an object": (OPEN, "[]"),
    "not UTF-8": (OPEN, b"\xff\xfe"),
}


@pytest.fixture
async def with_group(tmp_path: Path) -> AsyncIterator[Running]:
    """An allocator with one run and two open groups."""
    async with running(tmp_path, fresh_sqlite(tmp_path), max_body_bytes=2**20) as made:
        await made.http.post("/v1/runs", json={"run_id": "r", "policy": "p"}, headers=made.team)
        groups = batch(*({"group_id": name, "prompt_key": "k"} for name in "gh"))
        await made.http.post(f"/v1/{OPEN}", json=groups, headers=made.team)
        yield made


async def test_faults_of_a_body_are_named_for_people(with_group: Running) -> None:
    """A misspelt field and broken JSON say what is wrong, and where."""
    headers = {**with_group.team, "Content-Type": "application/json"}
    for content, told in (
        ('{"run_id": "n", "policy": "p", "polcy": 1}', "body.polcy: there is no such field; /openapi.json lists"),
        ('{"run_id": "n" "policy": "p"}', "body.15: no JSON: Expecting ',' delimiter, at this character"),
    ):
        answer = await with_group.http.post("/v1/runs", content=content, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(told), answer.text


@pytest.mark.parametrize("name", BAD)
async def test_g16_bad_input_is_422_and_stores_nothing(with_group: Running, name: str) -> None:
    """Each is refused with problem+json that names the fault, and no table has another row."""
    path, body = BAD[name]
    before = await with_group.rows()
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    headers = {**with_group.team, "Content-Type": "application/json"}
    answer = await with_group.http.post(f"/v1/{path}", content=content, headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["retryable"]) == (422, False)
    assert problem["code"] in {"invalid-input", "id-reused"}
    assert problem["title"]
    assert problem["detail"]
    assert await with_group.rows() == before


@pytest.mark.parametrize("declared", [True, False])
async def test_g16_a_body_over_the_bound_is_413(with_group: Running, *, declared: bool) -> None:
    """Whether its length is declared or it comes in chunks of unknown number."""
    before = await with_group.rows()
    body = b" " * (2**20 + 1)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    headers = {**with_group.team, "Content-Type": "application/json"}
    content = body if declared else chunks()
    answer = await with_group.http.post(f"/v1/{OPEN}", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
    assert await with_group.rows() == before


async def test_g16_a_body_that_no_parser_takes_is_400(with_group: Running) -> None:
    """JSON nested deeper than the parser's stack is refused like any other fault."""
    before = await with_group.rows()
    body = '{"groups":' * 1000 + "1" + "}" * 1000
    headers = {**with_group.team, "Content-Type": "application/json"}
    answer = await with_group.http.post(f"/v1/{OPEN}", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-input")
    assert await with_group.rows() == before


async def test_json_sent_as_something_else_is_told_so(with_group: Running) -> None:
    """What `curl -d` does unless it is told the type."""
    headers = {**with_group.team, "Content-Type": "application/x-www-form-urlencoded"}
    answer = await with_group.http.post(f"/v1/{OPEN}", content=json.dumps(batch(GROUP)), headers=headers)
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["detail"]


async def test_a_path_that_is_none_says_where_they_are_listed(with_group: Running) -> None:
    """A client whose base URL ends in /v1 asks for /v1/v1."""
    answer = await with_group.http.get("/v1/v1/budget", headers=with_group.team)
    assert answer.status_code == 404
    assert "/openapi.json" in answer.json()["detail"]


async def test_an_unknown_group_run_or_path_is_404(with_group: Running) -> None:
    """What is not there is a problem of its own, and stores nothing either."""
    before = await with_group.rows()
    for path, body in (
        (OBSERVE, batch({"group_id": "nobody", "outcomes": [1]})),
        (CLOSE, batch({"group_id": "nobody", "used": 1})),
        ("runs/nobody/groups/open", batch(GROUP)),
        ("nowhere", {}),
    ):
        answer = await with_group.http.post(f"/v1/{path}", json=body, headers=with_group.team)
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert await with_group.rows() == before


async def test_a_method_that_a_route_does_not_have_is_405(with_group: Running) -> None:
    """With problem+json and the methods that there are."""
    answer = await with_group.http.delete("/v1/budget", headers=with_group.team)
    assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed")
    assert answer.headers["allow"] == "GET"
