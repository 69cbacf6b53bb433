"""Who may do what: keys, scopes, tenants, and secrets that never leave."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr, ValidationError

from services.allocator.settings import Settings
from services.kit import logs
from services.kit.keys import digest
from tests.allocator.running import Running

SECRET = SecretStr("0123456789abcdef0123456789abcdef")
TEAM_ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "runs/r", None),
    ("PATCH", "runs/r", {"price": 0.1}),
    ("POST", "runs/r/finish", None),
    ("POST", "runs/r/heartbeat", None),
    ("POST", "runs/r/plan", {"plan_id": "1", "groups": 1, "candidates": [{"prompt_key": "k"}]}),
    ("POST", "runs/r/groups/open", {"groups": [{"group_id": "g", "prompt_key": "k"}]}),
    ("POST", "runs/r/groups/observe", {"groups": [{"group_id": "g", "outcomes": [1]}]}),
    ("POST", "runs/r/groups/close", {"groups": [{"group_id": "g", "used": 1}]}),
    ("POST", "runs/r/baselines", {"group_ids": ["g"]}),
    ("GET", "reservations/r/g/0/0", None),
]
OWN_ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "runs", {"run_id": "n", "policy": "p"}),
    ("POST", "decide", {"groups": [{"group_id": "g"}]}),
    ("GET", "runs", None),
    ("GET", "budget", None),
    ("GET", "usage", None),
    ("GET", "entries", None),
    ("GET", "changes", None),
]
ADMIN_ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "admin/teams", {"team": "t"}),
    ("GET", "admin/teams", None),
    ("GET", "admin/teams/default", None),
    ("PATCH", "admin/teams/default", {"name": "n"}),
    ("POST", "admin/teams/default/close", None),
    ("POST", "admin/teams/default/reopen", None),
    ("GET", "admin/budgets/default", None),
    ("PUT", "admin/budgets/default", {}),
    ("POST", "admin/keys", {"team": "default"}),
    ("GET", "admin/keys", None),
    ("DELETE", "admin/keys/x", None),
    ("POST", "admin/keys/x/rotate", {}),
    ("GET", "admin/changes", None),
    ("GET", "admin/usage", None),
]
READ_ONLY = {("GET", "runs/r"), ("POST", "runs/r/baselines"), ("GET", "reservations/r/g/0/0"), ("POST", "decide")} | {
    ("GET", "runs"),
    ("GET", "budget"),
    ("GET", "usage"),
    ("GET", "entries"),
    ("GET", "changes"),
}


async def ask(allocator: Running, method: str, path: str, body: object, headers: dict[str, str]) -> int:
    answer = await allocator.http.request(method, f"/v1/{path}", json=body, headers=headers)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code


async def with_run(allocator: Running) -> None:
    assert await ask(allocator, "POST", "runs", {"run_id": "r", "policy": "p"}, allocator.team) == 201
    group = {"group_id": "g", "prompt_key": "k"}
    assert await ask(allocator, "POST", "runs/r/groups/open", {"groups": [group]}, allocator.team) == 200


def test_the_lists_of_this_file_name_every_route(allocator: Running) -> None:
    """A new route cannot be forgotten here."""
    named = {(method, path) for method, path, _ in [*TEAM_ROUTES, *OWN_ROUTES, *ADMIN_ROUTES]}
    places = {"{run_id}": "r", "{reservation_id}": "r/g/0/0", "{team}": "default", "{key_id}": "x"}
    served = set()
    for path, methods in allocator.app.openapi()["paths"].items():
        concrete = path
        for place, value in places.items():
            concrete = concrete.replace(place, value)
        served |= {(method.upper(), concrete.removeprefix("/v1/")) for method in methods if path.startswith("/v1/")}
    assert served == named


async def test_g14_every_route_with_a_foreign_id_is_404(allocator: Running) -> None:
    """Another team's run does not exist: neither for reading nor for writing, and nothing changes."""
    await with_run(allocator)
    stranger = await allocator.new_key("stranger")
    before = await allocator.rows()
    for method, path, body in TEAM_ROUTES:
        assert await ask(allocator, method, path, body, stranger) == 404, (method, path)
    assert await allocator.rows() == before
    assert await ask(allocator, "POST", "runs", {"run_id": "r", "policy": "own"}, stranger) == 201
    assert (await allocator.http.get("/v1/runs/r", headers=stranger)).json()["spec"]["policy"] == "own"
    assert (await allocator.http.get("/v1/runs/r", headers=allocator.team)).json()["spec"]["policy"] == "p"
    usage = (await allocator.http.get("/v1/usage?by=team,run", headers=stranger)).json()
    assert usage["rows"] == []
    assert (await allocator.http.get("/v1/entries", headers=stranger)).json() == {"entries": [], "next": None}
    listed = (await allocator.http.get("/v1/runs", headers=stranger)).json()["runs"]
    assert [(run["policy"], run["granted"]) for run in listed] == [("own", 0)]


async def test_no_key_opens_nothing(allocator: Running) -> None:
    """Without a key, with a wrong one and with an absurd one every route is 401."""
    for headers in ({}, allocator.bearer("rb_wrong"), allocator.bearer("x" * 5000), {"Authorization": "Basic eDp5"}):
        for method, path, body in [*TEAM_ROUTES, *OWN_ROUTES, *ADMIN_ROUTES]:
            assert await ask(allocator, method, path, body, headers) == 401, (method, path)


async def test_scopes_reach_their_routes_only(allocator: Running) -> None:
    """A read key cannot write, a team key cannot administer, an admin key owns no runs."""
    await with_run(allocator)
    reader = await allocator.new_key("default", "read")
    before = await allocator.rows()
    for method, path, body in [*TEAM_ROUTES, *OWN_ROUTES]:
        expected = 200 if (method, path) in READ_ONLY else 403
        assert await ask(allocator, method, path, body, reader) == expected, (method, path)
        assert await ask(allocator, method, path, body, allocator.admin) == 403, (method, path)
    for method, path, body in ADMIN_ROUTES:
        assert await ask(allocator, method, path, body, allocator.team) == 403, (method, path)
        assert await ask(allocator, method, path, body, reader) == 403, (method, path)
    assert await allocator.rows() == before


async def test_an_expired_key_opens_nothing(allocator: Running) -> None:
    """Expiry follows the database's clock, and the cache does not outlive the key."""
    headers = await allocator.new_key("x", expires_in_s=2.0)  # long enough to be used once on a busy machine
    lasting = await allocator.new_key("x", expires_in_s=3600)
    assert await ask(allocator, "GET", "budget", None, headers) == 200
    hashed = digest(headers["Authorization"].removeprefix("Bearer "), allocator.service._pepper)
    alive = True
    while alive:
        async with allocator.service.directory() as directory:
            alive = await directory.find(hashed) is not None
    assert await ask(allocator, "GET", "budget", None, headers) == 401
    assert await ask(allocator, "GET", "budget", None, lasting) == 200


async def test_making_a_key_is_idempotent(allocator: Running) -> None:
    """400 without an Idempotency-Key, the same answer again, 422 with another body, 404 for a team that is not there."""
    body = {"team": "default", "scope": "read"}
    before = await allocator.rows()
    assert await ask(allocator, "POST", "admin/keys", body, allocator.admin) == 400
    headers = {**allocator.admin, "Idempotency-Key": "once"}
    first = await allocator.http.post("/v1/admin/keys", json=body, headers=headers)
    again = await allocator.http.post("/v1/admin/keys", json=body, headers=headers)
    assert first.json() == again.json()
    assert await ask(allocator, "POST", "admin/keys", {**body, "scope": "team"}, headers) == 422
    assert await ask(allocator, "POST", "admin/keys", {"team": "nobody"}, {**headers, "Idempotency-Key": "2"}) == 404
    after = await allocator.rows()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "keys": 1,
        "idempotency": 1,
        "changes": 1,
    }


async def test_g15_a_token_is_in_no_dump_and_no_log(
    allocator: Running, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The whole database as text, the key list and everything logged at debug level hold no token and no prompt."""
    caplog.set_level(logging.DEBUG)
    logs.configure(json_lines=True, level="DEBUG")
    headers = await allocator.new_key("x")
    await ask(allocator, "POST", "runs", {"run_id": "r", "policy": "p"}, headers)
    group = {"group_id": "g", "prompt_key": "k", "prompt": "a very private prompt"}
    await ask(allocator, "POST", "runs/r/groups/open", {"groups": [group]}, headers)
    await ask(allocator, "POST", "runs/r/groups/open", {"groups": [{**group, "lease_s": "x"}]}, headers)
    listed = (await allocator.http.get("/v1/admin/keys", headers=allocator.admin)).text
    metrics = (await allocator.http.get("/metrics")).text
    url = allocator.service.database.engine.url
    with sqlite3.connect(str(url.database)) as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    files = "".join(path.read_bytes().decode("latin-1") for path in allocator.folder.glob("*.db*"))
    written = "".join(capfd.readouterr()) + caplog.text
    structlog.reset_defaults()
    tokens = [one["Authorization"].removeprefix("Bearer ") for one in (headers, allocator.team, allocator.admin)]
    for place in (dump, files, listed, metrics, written):
        for secret in (*tokens, allocator.service._pepper, "a very private prompt"):
            assert secret not in place
    assert "g" in dump


def test_key_files_are_their_owners_alone(allocator: Running) -> None:
    """Admin key, team key and pepper: mode 0600."""
    for name in ("admin.key", "team.key", "pepper"):
        assert (allocator.folder / name).stat().st_mode & 0o777 == 0o600


def test_production_has_no_default_secret(tmp_path: Path) -> None:
    """Production mode refuses to start without pepper, admin key and database, or with short ones."""
    whole: dict[str, Any] = {
        "mode": "production",
        "database_url": "sqlite://",
        "pepper": SECRET,
        "admin_key": SECRET,
        "host": "0.0.0.0",  # noqa: S104  production may bind so
    }
    assert Settings(**whole).mode == "production"
    for name in ("database_url", "pepper", "admin_key"):
        with pytest.raises(ValidationError, match=f"needs {name}; set ROLLOUT_BUDGET_ALLOCATOR_{name.upper()}"):
            Settings(**{**whole, name: None})
    with pytest.raises(ValidationError, match="at least 32 characters"):
        Settings(**{**whole, "pepper": SecretStr("short")})


def test_embedded_mode_stays_on_loopback() -> None:
    """An address that others can reach needs production mode."""
    for host in ("127.0.0.1", "::1", "localhost"):
        assert Settings(host=host).host == host
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):  # noqa: S104  refused
        with pytest.raises(ValidationError, match="loopback"):
            Settings(host=host)
    with pytest.raises(ValidationError, match="extra"):
        Settings.model_validate({"misspelt": 1})
    with pytest.raises(
        ValidationError,
        match="go together; set ROLLOUT_BUDGET_ALLOCATOR_PRIOR_URL and ROLLOUT_BUDGET_ALLOCATOR_PRIOR_KEY",
    ):
        Settings(prior_url="http://localhost:8101")
