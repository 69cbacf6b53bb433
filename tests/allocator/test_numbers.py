"""G16 by the number: at every place of every request that holds one, each number that breaks somebody's integers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.allocator.databases import fresh_sqlite
from tests.allocator.running import Running, running

EXTREMES = {
    "2^31": str(2**31),
    "2^53": str(2**53),
    "2^63": str(2**63),
    "2^64": str(2**64),
    "-2^63": str(-(2**63)),
    "a thousand digits": "9" * 1000,
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "beyond a double": "1e999",
}
NEVER = {"NaN", "Infinity", "-Infinity", "beyond a double", "a thousand digits"}
"""No field takes these."""
LIMITS = {"rollouts": 10, "rollouts_per_step": 10}
REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "create a run": (
        "POST",
        "/v1/runs",
        {"run_id": "n", "policy": "p", "k_init": 2, "k_max": 8, "price": 0.01, "limits": LIMITS,
         "outcome_range": {"low": 0.0, "high": 1.0}},
    ),
    "change a run": ("PATCH", "/v1/runs/r", {"price": 0.01, "limits": LIMITS}),
    "plan": (
        "POST",
        "/v1/runs/r/plan",
        {"plan_id": "n", "rollouts": 4, "exploration": 0.1,
         "candidates": [{"prompt_key": "k", "policy_version": 1, "prior": {"value": 0.5, "standard_error": 0.1}}]},
    ),
    "plan of groups": ("POST", "/v1/runs/r/plan", {"plan_id": "m", "groups": 1, "candidates": [{"prompt_key": "k"}]}),
    "open": (
        "POST",
        "/v1/runs/r/groups/open",
        {"lease_s": 60.0, "groups": [{"group_id": "n", "prompt_key": "k", "attempt": 0, "policy_version": 1, "step": 3,
         "prior": {"value": 0.5, "standard_error": 0.1}}]},
    ),
    "observe": (
        "POST",
        "/v1/runs/r/groups/observe",
        {"groups": [{"group_id": "g", "attempt": 0, "outcomes": [1.0], "rewards": [0.5]}]},
    ),
    "close": (
        "POST",
        "/v1/runs/r/groups/close",
        {"groups": [{"group_id": "g", "attempt": 0, "used": 1, "tokens": 10, "seconds": 1.0, "outcomes": [1.0]}]},
    ),
    "decide": (
        "POST",
        "/v1/decide",
        {"budget": 5, "k_max": 8, "price": 0.01, "squared_prior_error": 0.1, "within_variance": 0.1,
         "groups": [{"group_id": "g", "prior": {"value": 0.5, "standard_error": 0.1}, "outcomes": [1.0]}]},
    ),
    "set a budget": ("PUT", "/v1/admin/budgets/default", {"rollouts": 5, "rollouts_per_day": 5, "rollouts_per_month": 5}),
    "create a key": ("POST", "/v1/admin/keys", {"team": "default", "expires_in_s": 60.0}),
}  # fmt: skip


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield where a body holds numbers."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from places(item, (*path, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from places(item, (*path, place))
    elif isinstance(value, (int, float)):
        yield path


def with_number(body: dict[str, Any], path: tuple[str | int, ...], number: str) -> str:
    """Return a body with a literal in one place."""
    copy = json.loads(json.dumps(body))
    inner = copy
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = "THE NUMBER"
    return json.dumps(copy).replace('"THE NUMBER"', number)


@pytest.fixture
async def with_group(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, fresh_sqlite(tmp_path)) as made:
        await made.http.post("/v1/runs", json={"run_id": "r", "policy": "p"}, headers=made.team)
        groups = {"groups": [{"group_id": "g", "prompt_key": "k"}]}
        await made.http.post("/v1/runs/r/groups/open", json=groups, headers=made.team)
        yield made


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_requests_are_good_as_they_stand(with_group: Running, name: str) -> None:
    """So that a refusal below is about the number."""
    method, path, body = REQUESTS[name]
    key = with_group.admin if "/admin/" in path else with_group.team
    answer = await with_group.http.request(method, path, json=body, headers={**key, "Idempotency-Key": "x"})
    assert answer.is_success, answer.text


@pytest.mark.parametrize("name", REQUESTS)
async def test_g16_extreme_numbers_are_refused_or_kept_whole(with_group: Running, name: str) -> None:
    """Never a failure of the service; what is refused stores nothing; what is not finite is refused everywhere."""
    method, path, body = REQUESTS[name]
    found = list(places(body))
    assert found
    for place in found:
        for what, number in EXTREMES.items():
            key = with_group.admin if "/admin/" in path else with_group.team
            headers = {**key, "Content-Type": "application/json", "Idempotency-Key": f"{place} {what}"}
            before = await with_group.rows()
            content = with_number(body, place, number)
            answer = await with_group.http.request(method, path, content=content, headers=headers)
            where = f"{what} at {place}: {answer.status_code} {answer.text[:200]}"
            assert answer.status_code in {200, 201, 400, 422}, where
            if what in NEVER:
                assert answer.status_code in {400, 422}, where
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json", where
                assert await with_group.rows() == before, where
            elif isinstance(json.loads(content), dict) and what in {"2^53", "2^63", "2^64"}:
                assert not isinstance(_at(body, place), int), where


def _at(body: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        body = body[part]
    return body


@pytest.mark.parametrize("what", EXTREMES)
async def test_g16_extreme_numbers_in_a_query_are_refused(with_group: Running, what: str) -> None:
    for name in ("limit", "after"):
        params = {name: EXTREMES[what]}
        answer = await with_group.http.get("/v1/admin/keys", params=params, headers=with_group.admin)
        assert answer.status_code in {200, 422}, answer.text
