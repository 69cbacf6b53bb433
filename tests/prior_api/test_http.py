"""The REST interface: keys, tenants, bounds, errors."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.prior_api.settings import Settings
from tests.prior_api.conftest import SERVICE, TEAM_A, TEAM_B, Serve
from tests.prior_api.fakes import FakeEncoder

ROW = {"id": "r1", "key": "p1", "version": 3, "successes": 3, "trials": 4}


def bearer(key: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **more}


def values_body(*keys: str, **changes: Any) -> dict[str, Any]:
    prompts = [{"key": key, "text": f"text of {key}"} for key in keys]
    return {"policy": "m", "version": 3, "prompts": prompts, **changes}


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is problem+json of this kind, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code
    assert {"type", "title", "status", "detail", "retryable"} <= body.keys()
    return body


async def test_values_and_evidence_go_round(client: httpx.AsyncClient) -> None:
    """Evidence moves the value of its own prompt, lowers its error, and both answers say which evidence they saw."""
    before = (await client.post("/v1/values", json=values_body("p1"))).json()
    added = await client.post("/v1/policies/m/evidence", json={"rows": [ROW | {"successes": 4}]})
    after = (await client.post("/v1/values", json=values_body("p1"))).json()
    assert added.json() == {"stored": 1, "repeated": 0, "evidence_version": 1}
    assert (before["evidence_version"], after["evidence_version"]) == (0, 1)
    assert before["values"][0]["value"] == 0.5
    assert after["values"][0]["value"] > 0.7
    assert after["values"][0]["standard_error"] < before["values"][0]["standard_error"]
    assert after["values"][0]["evidence_count"] == 1
    assert after["model"] == "gp"
    assert not after["degraded"]


@pytest.mark.parametrize(
    "headers", [{"Authorization": ""}, bearer("wrong"), bearer(TEAM_A, **{"Rollout-Budget-Team": "b"})]
)
async def test_without_the_right_key_nothing_answers(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """No key, a wrong key, and a team's key that names another team all answer 401."""
    for method, path in (("GET", "/v1/policies"), ("POST", "/v1/values"), ("GET", "/v1/policies/m")):
        answer = await client.request(method, path, headers=headers, json=values_body("p1"))
        problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_service_key_speaks_for_the_team_that_it_names(client: httpx.AsyncClient) -> None:
    """What a service key adds for a team, that team's own key sees, and the default team does not."""
    encoded = bearer(SERVICE, **{"Rollout-Budget-Team": "%C3%A9quipe"})
    await client.post("/v1/policies/m/evidence", json={"rows": [ROW]}, headers=encoded)
    assert [(await client.get("/v1/policies/m", headers=encoded)).json()["rows"]] == [1]
    problem(
        await client.get("/v1/policies", headers=bearer(SERVICE, **{"Rollout-Budget-Team": "%00"})),
        422,
        "invalid-input",
    )
    for_b = bearer(SERVICE, **{"Rollout-Budget-Team": "b"})
    await client.post("/v1/policies/m/evidence", json={"rows": [ROW]}, headers=for_b)
    assert (await client.get("/v1/policies/m", headers=bearer(TEAM_B))).json()["rows"] == 1
    assert (await client.get("/v1/policies", headers=bearer(SERVICE))).json()["policies"] == []


async def test_g14_private_evidence_is_invisible_to_other_teams(client: httpx.AsyncClient) -> None:
    """Another team's policy answers 404, is not listed, and moves no value and no evidence version."""
    rows = [ROW | {"id": f"r{i}", "successes": 4} for i in range(50)]
    body = {"rows": rows, "prompts": values_body("p1")["prompts"]}
    as_b = bearer(TEAM_B)
    before = (await client.post("/v1/values", json=values_body("p1"), headers=as_b)).json()
    await client.post("/v1/policies/secret/evidence", json=body)
    problem(await client.get("/v1/policies/secret", headers=as_b), 404, "not-found")
    assert (await client.get("/v1/policies", headers=as_b)).json()["policies"] == []
    answer = (await client.post("/v1/values", json=values_body("p1"), headers=as_b)).json()
    assert answer == before
    assert answer["evidence_version"] == 0
    assert (answer["values"][0]["value"], answer["values"][0]["evidence_count"]) == (0.5, 0)


async def test_shared_evidence_helps_others_and_stays_unreadable(client: httpx.AsyncClient) -> None:
    """Shared outcomes move another team's value of the same text, yet policy, keys and texts stay out of its reach."""
    rows = [ROW | {"id": f"r{i}", "key": f"p{i % 8}", "successes": 4} for i in range(64)]
    body = {"rows": rows, "prompts": values_body(*(f"p{i}" for i in range(8)))["prompts"], "scope": "shared"}
    await client.post("/v1/policies/m/evidence", json=body)
    as_b = bearer(TEAM_B)
    question = {"policy": "other", "version": 0, "prompts": [{"key": "mine", "text": "text of p1"}]}
    answer = (await client.post("/v1/values", json=question, headers=as_b)).json()
    assert answer["evidence_version"] == 64
    assert answer["values"][0]["value"] > 0.65  # .5 without; the noise of sharing moves it by some hundredths
    assert answer["values"][0]["evidence_count"] == 0
    problem(await client.get("/v1/policies/m", headers=as_b), 404, "not-found")
    textless = {"policy": "other", "version": 0, "prompts": [{"key": "p1"}]}
    assert (await client.post("/v1/values", json=textless, headers=as_b)).json()["degraded"]


async def test_evidence_without_a_scope_joins_the_policy_as_it_is(client: httpx.AsyncClient) -> None:
    """The allocator states none: its rows must not be refused where the team has shared its policy."""
    first = await client.post("/v1/policies/m/evidence", json={"rows": [ROW], "scope": "shared"})
    second = await client.post("/v1/policies/m/evidence", json={"rows": [ROW | {"id": "r2"}]})
    assert (first.status_code, second.status_code) == (200, 200)
    assert (await client.get("/v1/policies/m")).json()["scope"] == "shared"


async def test_scope_cannot_change(client: httpx.AsyncClient) -> None:
    """A policy first stated as private refuses shared evidence and keeps what it had."""
    await client.post("/v1/policies/m/evidence", json={"rows": [ROW]})
    answer = await client.post("/v1/policies/m/evidence", json={"rows": [ROW | {"id": "r2"}], "scope": "shared"})
    problem(answer, 422, "id-reused")
    assert (await client.get("/v1/policies/m")).json()["rows"] == 1


@pytest.mark.parametrize("change", [{"successes": 2}, {"trials": 5}, {"key": "p2"}, {"version": 4}])
async def test_g04_an_id_with_another_body_stores_nothing(client: httpx.AsyncClient, change: dict[str, Any]) -> None:
    """The first body of an id stands, and the new rows beside the contradiction are not stored either."""
    await client.post("/v1/policies/m/evidence", json={"rows": [ROW]})
    rows = [ROW | {"id": "new"}, ROW | change]
    problem(await client.post("/v1/policies/m/evidence", json={"rows": rows}), 422, "id-reused")
    assert (await client.get("/v1/policies/m")).json()["rows"] == 1


async def test_g03_evidence_sent_again_counts_once(client: httpx.AsyncClient) -> None:
    """A repeated batch is acknowledged as repeated and changes nothing."""
    rows = [ROW, ROW | {"id": "r2"}]
    await client.post("/v1/policies/m/evidence", json={"rows": rows[:1]})
    second = await client.post("/v1/policies/m/evidence", json={"rows": rows})
    third = await client.post("/v1/policies/m/evidence", json={"rows": rows})
    assert second.json() == {"stored": 1, "repeated": 1, "evidence_version": 2}
    assert third.json() == {"stored": 0, "repeated": 2, "evidence_version": 2}


BAD_ROWS = {
    "NaN": '{"id": "x", "key": "p", "version": 1, "successes": NaN, "trials": 1}',
    "infinity": '{"id": "x", "key": "p", "version": 1, "successes": Infinity, "trials": 1}',
    "huge": '{"id": "x", "key": "p", "version": 1, "successes": 1e999, "trials": 1}',
    "negative": '{"id": "x", "key": "p", "version": 1, "successes": -1, "trials": 1}',
    "more successes than trials": '{"id": "x", "key": "p", "version": 1, "successes": 2, "trials": 1}',
    "no trials": '{"id": "x", "key": "p", "version": 1, "successes": 0, "trials": 0}',
    "too many trials": '{"id": "x", "key": "p", "version": 1, "successes": 0, "trials": 1025}',
    "version 2^31": '{"id": "x", "key": "p", "version": 2147483648, "successes": 0, "trials": 1}',
    "version 2^63": '{"id": "x", "key": "p", "version": 9223372036854775808, "successes": 0, "trials": 1}',
    "empty id": '{"id": "", "key": "p", "version": 1, "successes": 0, "trials": 1}',
    "long key": '{"id": "x", "key": "%s", "version": 1, "successes": 0, "trials": 1}' % ("p" * 201),
    "control character": '{"id": "x", "key": "a\\u0000b", "version": 1, "successes": 0, "trials": 1}',
    "unknown field": '{"id": "x", "key": "p", "version": 1, "successes": 0, "trials": 1, "weight": 2}',
    "missing field": '{"id": "x", "key": "p", "version": 1, "successes": 0}',
    "twice in one batch": json.dumps(ROW) + "," + json.dumps(ROW),
}


@pytest.mark.parametrize("rows", BAD_ROWS.values(), ids=BAD_ROWS.keys())
async def test_g16_bad_rows_store_nothing(client: httpx.AsyncClient, rows: str) -> None:
    """Every kind of bad row answers 422 problem+json, and the good row beside it is not stored."""
    body = f'{{"rows": [{{"id": "good", "key": "p", "version": 1, "successes": 1, "trials": 1}}, {rows}]}}'
    answer = await client.post("/v1/policies/m/evidence", content=body, headers={"content-type": "application/json"})
    problem(answer, 422, "invalid-input")
    assert (await client.get("/v1/policies")).json()["policies"] == []


BAD_QUESTIONS = {
    "no prompts": {"policy": "m", "version": 0, "prompts": []},
    "too many prompts": {"policy": "m", "version": 0, "prompts": [{"key": "p"}] * 4097},
    "long text": {"policy": "m", "version": 0, "prompts": [{"key": "p", "text": "x" * 32_769}]},
    "unknown model": values_body("p", model="oracle"),
    "negative version": values_body("p", version=-1),
    "not an object": ["p"],
}


@pytest.mark.parametrize("body", BAD_QUESTIONS.values(), ids=BAD_QUESTIONS.keys())
async def test_g16_bad_questions_are_refused(client: httpx.AsyncClient, body: Any) -> None:
    """Every kind of bad question answers 422 problem+json."""
    problem(await client.post("/v1/values", json=body), 422, "invalid-input")


async def test_one_key_has_one_text(client: httpx.AsyncClient) -> None:
    """A key that comes with another text than before is refused, within one request and between two."""
    prompts = [{"key": "p", "text": "one"}, {"key": "p", "text": "two"}]
    problem(await client.post("/v1/prompts", json={"prompts": prompts}), 422, "id-reused")
    assert (await client.post("/v1/prompts", json={"prompts": prompts[:1]})).json()["registered"] == 1
    problem(await client.post("/v1/prompts", json={"prompts": prompts[1:]}), 422, "id-reused")
    problem(await client.post("/v1/values", json=values_body("p")), 422, "id-reused")


@pytest.mark.parametrize("text", ["", "nul \x00 inside", "中文 and é", "\U0001f600" * 100])
async def test_any_text_is_a_text(client: httpx.AsyncClient, text: str) -> None:
    """Empty texts, NUL characters and every script are stored and encoded."""
    body = values_body("p") | {"prompts": [{"key": "p", "text": text}]}
    assert not (await client.post("/v1/values", json=body)).json()["degraded"]


async def test_lone_surrogates_are_refused(client: httpx.AsyncClient) -> None:
    """A string that is no Unicode text is the caller's error, not ours."""
    body = rb'{"policy": "m", "version": 0, "prompts": [{"key": "p", "text": "\ud800"}]}'
    answer = await client.post("/v1/values", content=body, headers={"content-type": "application/json"})
    problem(answer, 422, "invalid-input")


async def test_names_with_slashes_are_names(client: httpx.AsyncClient) -> None:
    """Policies are called as on model hubs; an escaped slash means the same as a plain one."""
    await client.post("/v1/policies/Qwen/Qwen3-4B/evidence", json={"rows": [ROW]})
    for path in ("/v1/policies/Qwen/Qwen3-4B", "/v1/policies/Qwen%2FQwen3-4B"):
        assert (await client.get(path)).json()["policy"] == "Qwen/Qwen3-4B"


async def test_large_bodies_are_refused(serve: Serve) -> None:
    """A body over the bound is refused before it is read as JSON, whether its length was declared or not."""

    async def undeclared() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * 512

    async with serve(max_body_bytes=1024) as client:
        problem(await client.post("/v1/prompts", content=b"x" * 2048), 413, "too-large")
        problem(await client.post("/v1/prompts", content=undeclared()), 413, "too-large")


async def test_readiness_waits_for_the_encoder_and_liveness_does_not(serve: Serve, encoder: FakeEncoder) -> None:
    """With an encoder that does not load, readyz says why, livez is fine, and values still come, degraded."""
    encoder.load_failure = OSError("no weights")
    async with serve() as client:
        answer = (await client.post("/v1/values", json=values_body("p"))).json()
        assert answer["degraded"]
        assert "did not load: OSError" in answer["detail"]
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert "did not load" in ready.json()["detail"]
        assert (await client.get("/livez")).json()["status"] == "ok"
        assert (await client.get("/healthz")).json()["status"] == "ok"


async def test_metrics_name_no_prompt_and_no_key(client: httpx.AsyncClient) -> None:
    """The metrics of contract section 7 are there, and nothing in them comes from a caller."""
    await client.post("/v1/values", json=values_body("very-private-key"))
    await client.post("/v1/policies/very-private-policy/evidence", json={"rows": [ROW]})
    text = (await client.get("/metrics")).text
    for line in (
        "rollout_budget_encoder_batch_size_count 1.0",
        "rollout_budget_encoder_queue_depth 0.0",
        'rollout_budget_feature_lookups_total{found="nowhere"} 1.0',
        'rollout_budget_evidence_rows_total{result="stored"} 1.0',
        "rollout_budget_prior_refit_seconds_count 1.0",
        'rollout_budget_prior_values_total{degraded="false",model="gp"} 1.0',
        'route="/v1/values"',
    ):
        assert line in text
    assert "very-private" not in text


async def test_logs_hold_no_prompt(
    client: httpx.AsyncClient, encoder: FakeEncoder, capfd: pytest.CaptureFixture[str]
) -> None:
    """Even when the encoder fails with the text in its message, the text is not logged."""
    encoder.failure = RuntimeError("cannot encode: text of my-secret-prompt")
    await client.post("/v1/values", json=values_body("my-secret-prompt"))
    out, err = capfd.readouterr()
    assert "encoder failed" in out + err
    assert "my-secret-prompt" not in out + err


async def test_embedded_mode_mints_a_key_for_its_owner_alone(serve: Serve, tmp_path: Path) -> None:
    """The key file has mode 0600, its key works for the default team, and a second start keeps it."""
    async with serve() as client:
        key = (tmp_path / "prior.key").read_text().strip()
        assert stat.S_IMODE((tmp_path / "prior.key").stat().st_mode) == 0o600
        assert (await client.get("/v1/policies", headers=bearer(key))).status_code == 200
    async with serve() as client:
        assert (await client.get("/v1/policies", headers=bearer(key))).status_code == 200


def test_settings_refuse_to_be_insecure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Production without keys, embedded beyond loopback, short or equal secrets and unknown settings do not start."""
    secret = "0123456789abcdef"
    insecure: list[dict[str, Any]] = [
        {"mode": "production"},
        {"host": "0.0.0.0"},  # noqa: S104  refused is the point
        {"keys": {"a": "short"}},
        {"keys": {"a": secret}, "service_keys": [secret]},
        {"kyes": {}},
    ]
    for bad in insecure:
        with pytest.raises(ValueError, match="validation error"):
            Settings(**bad)
    monkeypatch.setenv("ROLLOUT_BUDGET_PRIOR_KEYS", json.dumps({"a": secret}))
    settings = Settings(mode="production", host="0.0.0.0")  # noqa: S104  behind a proxy
    assert secret not in repr(settings)
