"""Who gets in, for how long, and what a browser is told: sessions, tenancy, other sites' forms, rates, headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from rollout_budget.wire import KeyCreate, TeamLimits
from services.allocator.dashboard import sessions
from services.allocator.dashboard.sessions import COOKIE, IDLE_S, LONGEST_S
from tests.allocator.databases import fresh_sqlite
from tests.allocator.running import Running, running
from tests.dashboard.scene import SECRET_PROMPT, draw, signed_in, steps, token

ELSEWHERE: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "null"},
]


def seal(text: str) -> str:
    """A seal that a reader can follow: the text backwards."""
    return text[::-1]


async def test_without_a_session_nothing_is_shown_but_the_way_in(allocator: Running) -> None:
    """The page sends to the form, a poll is told that the session is over, the form is there."""
    answer = await allocator.http.get("/dashboard")
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/login")
    assert (await allocator.http.get("/dashboard/live")).status_code == 401
    form = await allocator.http.get("/dashboard/login")
    assert form.status_code == 200
    assert 'type="password"' in form.text


async def test_a_session_is_a_signed_cookie_without_the_key(allocator: Running) -> None:
    """HttpOnly, strict, for the page alone, an hour long; Secure where the request came by TLS."""
    key = token(allocator.team)
    plain = await allocator.http.post("/dashboard/login", data={"key": f" {key}\n"})
    assert (plain.status_code, plain.headers["location"]) == (303, "/dashboard")
    cookie = plain.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/dashboard", f"Max-Age={IDLE_S}"} <= set(cookie.split("; "))
    assert key not in cookie
    assert "Secure" not in cookie
    for said in ("https", "https, http"):
        behind_tls = await allocator.http.post(
            "/dashboard/login", data={"key": key}, headers={"X-Forwarded-Proto": said}
        )
        assert "Secure" in behind_tls.headers["set-cookie"]


async def test_a_team_sees_its_own_and_an_admin_all(any_database: str, tmp_path: Path) -> None:
    """On both databases; another team's page and one that is not there are answered alike."""
    async with running(tmp_path, any_database) as allocator:
        alpha = await allocator.new_key("alpha", limits=TeamLimits(rollouts=100))
        beta = await allocator.new_key("beta", "read")
        await draw(allocator, alpha, "alphas-run", ["g1", "g2"])
        await draw(allocator, await allocator.new_key("beta"), "betas-run", ["h1"])
        async with signed_in(allocator, alpha) as own, signed_in(allocator, beta) as other:
            assert "alphas-run" in (page := (await own.get("/dashboard")).text)
            assert "beta" not in page
            assert "g1/0/0" in page
            assert "4 used" in page
            assert "96 left of 100" in page
            theirs = (await other.get("/dashboard")).text
            assert "betas-run" in theirs
            assert "alpha" not in theirs
            foreign, nobody = [await other.get("/dashboard", params={"team": name}) for name in ("alpha", "nobody")]
            assert foreign.status_code == nobody.status_code == 404
            assert foreign.text.replace("alpha", "nobody") == nobody.text
        async with signed_in(allocator, allocator.admin) as admin:
            everything = (await admin.get("/dashboard")).text
            assert all(name in everything for name in ("alphas-run", "betas-run", "alpha", "beta"))
            one = (await admin.get("/dashboard", params={"team": "beta"})).text
            assert "betas-run" in one
            assert "alphas-run" not in one


async def test_a_wrong_counter_is_told_to_its_team_and_to_admins(allocator: Running) -> None:
    """Another team learns nothing of it: what the process has counted is of all teams."""
    await draw(allocator, await allocator.new_key("alpha"), "r", ["g1"])
    async with allocator.service.database.transaction() as connection:
        await connection.exec_driver_sql("UPDATE accounts SET committed = 1 WHERE team = 'alpha' AND run = 'r'")
    assert await allocator.service.audit() > 0
    told = {}
    for name, headers in (("own", await allocator.new_key("alpha", "read")), ("other", allocator.team)):
        async with signed_in(allocator, headers) as browser:
            told[name] = "counters differ" in (await browser.get("/dashboard")).text
    async with signed_in(allocator, allocator.admin) as browser:
        told["admin"] = "counters differ" in (await browser.get("/dashboard", params={"team": "default"})).text
    assert told == {"own": True, "other": False, "admin": True}


async def test_an_admin_pages_through_teams(allocator: Running) -> None:
    """Twelve at once, the rest behind a link that leads on."""
    for number in range(13):
        await allocator.new_key(f"squad-{number:02}")
    async with signed_in(allocator, allocator.admin) as admin:
        first = (await admin.get("/dashboard")).text
        assert "squad-10" in first
        assert "squad-11" not in first
        assert "/dashboard?after=squad-10" in first
        second = (await admin.get("/dashboard", params={"after": "squad-10"})).text
        assert "squad-12" in second
        assert "squad-10<" not in second


async def test_a_revoked_key_ends_its_sessions_at_once(allocator: Running) -> None:
    """The very next request finds the door shut, though the key was used a moment ago; an expired key's too."""
    async with allocator.service.directory() as directory:
        made = await directory.create_key(KeyCreate(team="default", label="browser"), "once")
    headers = allocator.bearer(made.token)
    async with signed_in(allocator, headers) as client:
        assert (await client.get("/dashboard/live")).status_code == 200
        revoked = await allocator.http.delete(f"/v1/admin/keys/{made.key_id}", headers=allocator.admin)
        assert revoked.is_success
        assert (await client.get("/dashboard/live")).status_code == 401
        assert (await client.get("/dashboard")).headers["location"] == "/dashboard/login"
    again = await allocator.http.post("/dashboard/login", data={"key": made.token})
    assert again.status_code == 401


async def test_signing_out_ends_the_session_in_the_browser(allocator: Running) -> None:
    """The cookie is taken back; a link to the address signs nobody out."""
    async with signed_in(allocator, allocator.team) as client:
        assert (await client.get("/dashboard/logout")).headers["location"] == "/dashboard"
        assert (await client.get("/dashboard")).status_code == 200
        assert (await client.post("/dashboard/logout")).headers["location"] == "/dashboard/login"
        assert (await client.get("/dashboard")).status_code == 303


@pytest.mark.parametrize("headers", ELSEWHERE)
async def test_a_form_on_another_site_signs_nobody_in_or_out(allocator: Running, headers: dict[str, str]) -> None:
    """Refused by what browsers say of a form's origin, whatever cookie comes with it."""
    async with signed_in(allocator, allocator.team) as client:
        assert (await client.post("/dashboard/logout", headers=headers)).status_code == 403
        assert (await client.get("/dashboard")).status_code == 200
    answer = await allocator.http.post("/dashboard/login", data={"key": token(allocator.team)}, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_the_own_form_is_let_in_with_its_origin(allocator: Running) -> None:
    """What a browser sends with a form of this very page: by plain HTTP, and by TLS through a proxy with another name."""
    plain = {"Origin": "http://allocator"}
    answer = await allocator.http.post("/dashboard/login", data={"key": token(allocator.team)}, headers=plain)
    assert answer.status_code == 303
    sent = {"Origin": "https://public.example", "Sec-Fetch-Site": "same-origin"}
    answer = await allocator.http.post("/dashboard/login", data={"key": token(allocator.team)}, headers=sent)
    assert answer.status_code == 303


async def test_a_wrong_key_is_told_so_and_never_shown(allocator: Running) -> None:
    """401 with the form again; nothing of what was typed comes back."""
    for wrong in ("rb_no-such-key-at-all", "", "<b>key</b>"):
        answer = await allocator.http.post("/dashboard/login", data={"key": wrong})
        assert answer.status_code == 401
        assert "unknown, expired or revoked" in answer.text
        assert not wrong or wrong not in answer.text
        assert "set-cookie" not in answer.headers


async def test_guessing_keys_is_as_slow_as_everywhere(tmp_path: Path) -> None:
    """Strangers share one small bucket, on the page as under /v1/; who is signed in is not kept out by them."""
    slow = running(tmp_path, fresh_sqlite(tmp_path), unknown_keys_per_s=0.1)
    async with slow as allocator, signed_in(allocator, allocator.team) as client:
        assert (await allocator.http.post("/dashboard/login", data={"key": "rb_guess"})).status_code == 429
        assert (await allocator.http.get("/dashboard/login")).status_code == 429
        assert (await client.get("/dashboard")).status_code == 200


async def test_a_session_spends_its_teams_rate(tmp_path: Path) -> None:
    """A page left open in a hundred tabs is turned away like any request of its team, and no other team's are."""
    async with running(tmp_path, fresh_sqlite(tmp_path), requests_per_s=0.01, request_burst=2) as allocator:
        other = await allocator.new_key("other")
        async with signed_in(allocator, allocator.team) as client, signed_in(allocator, other) as quiet:
            looked = [(await client.get("/dashboard/live")).status_code for _ in range(3)]
            assert looked == [200, 200, 429]
            assert (await quiet.get("/dashboard/live")).status_code == 200


async def test_sessions_of_an_ended_key_spend_the_rate_of_strangers(tmp_path: Path) -> None:
    """Whoever holds a cookie of a revoked key cannot use up what its team may ask."""
    async with running(tmp_path, fresh_sqlite(tmp_path), requests_per_s=0.01, request_burst=2) as allocator:
        async with allocator.service.directory() as directory:
            made = await directory.create_key(KeyCreate(team="default"), "once")
        async with signed_in(allocator, allocator.bearer(made.token)) as client:
            async with allocator.service.directory() as directory:
                await directory.revoke(made.key_id)
            assert {(await client.get("/dashboard/live")).status_code for _ in range(5)} == {401}
        assert (await allocator.http.get("/v1/budget", headers=allocator.team)).status_code == 200


async def test_a_form_is_small(allocator: Running) -> None:
    """Nobody without a key makes the service read more than a key."""
    answer = await allocator.http.post("/dashboard/login", data={"key": "k" * 5_000})
    assert answer.status_code == 413


async def test_a_browser_that_goes_away_while_it_signs_in_is_no_error(allocator: Running) -> None:
    """Strangers can make neither an answer of 5xx, which alerts count, nor a traceback in the log."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/dashboard/login", "raw_path": b"/dashboard/login", "query_string": b"",
        "headers": [(b"content-length", b"9")], "scheme": "http", "http_version": "1.1", "server": ("allocator", 80),
    }  # fmt: skip
    with capture_logs() as lines:
        await allocator.app(scope, receive, send)  # type: ignore[arg-type]  # ASGI's messages are mutable mappings
    assert sent[0]["status"] == 413
    assert not [line for line in lines if line["log_level"] == "error"]


@pytest.mark.parametrize("path", ["", "/login", "/live", "/page.css", "/live.js", "/icon.svg"])
async def test_every_answer_forbids_what_it_does_not_need(allocator: Running, path: str) -> None:
    """No origin but this one, nothing inline, no frame, nothing kept."""
    async with signed_in(allocator, allocator.team) as client:
        answer = await client.get(f"/dashboard{path}")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src", "form-action")} == {"'self'"}
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert " style=" not in answer.text
    assert "<style" not in answer.text
    assert "http-equiv" not in answer.text


async def test_names_are_text_and_secrets_are_absent(allocator: Running) -> None:
    """Team, run, policy and group names are their users'; neither a prompt nor a key is ever on the page."""
    evil = "<script>alert('x')</script>"
    headers = await allocator.new_key(evil, limits=TeamLimits(rollouts=9))
    created = await allocator.http.post("/v1/runs", json={"run_id": '"><img src=x>', "policy": evil}, headers=headers)
    assert created.is_success
    for path, body in steps("r", [evil]):
        assert (await allocator.http.post(path, json=body, headers=headers)).is_success
    for who in (headers, allocator.admin):
        async with signed_in(allocator, who) as client:
            page = (await client.get("/dashboard")).text
        assert "&lt;script&gt;" in page
        assert "<script>" not in page
        assert "<img" not in page
        assert SECRET_PROMPT not in page
        assert "rb_" not in page.replace("rb_no", "")


async def test_looking_changes_nothing(allocator: Running) -> None:
    """All tables have the rows they had; the page is no part of the REST contract, and says which methods it has."""
    await draw(allocator, allocator.team, "r", ["g"])
    async with signed_in(allocator, allocator.admin) as client:
        before = await allocator.rows()
        for path in ("", "/live", "?team=default"):
            assert (await client.get(f"/dashboard{path}")).status_code == 200
        assert await allocator.rows() == before
        refused: httpx.Response = await client.put("/dashboard/login")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST")
    document: dict[str, Any] = allocator.app.openapi()
    assert not [path for path in document["paths"] if "dashboard" in path]


def test_a_cookie_that_was_not_sealed_here_is_none() -> None:
    """Neither another's fields, nor another's seal, nor noise; and none that is over."""
    session = sessions.begin("key", "team", 1_000.0)
    value = sessions.write(session, seal)
    assert sessions.read(value, seal, 1_000.0) == session
    assert sessions.read(value, seal, 1_000.0 + IDLE_S) is None
    text, _, sealed = value.partition(".")
    forged = sessions.write(sessions.begin("key", "other", 1_000.0), seal).partition(".")[0]
    for wrong in (
        f"{forged}.{sealed}",
        text,
        f"{text}.",
        "",
        ".",
        "é.é",
        f"{value}x",
        "a" * 9_999,
        f"W10.{seal('W10')}",
    ):
        assert sessions.read(wrong, seal, 1_000.0) is None


def test_a_session_is_renewed_while_it_is_used_up_to_a_day() -> None:
    """Not on every request, and never past its longest life."""
    session, now, renewals = sessions.begin("key", "team", 0.0), 0.0, 0
    while now < session.ends:
        later = sessions.renewed(session, now)
        renewals += later is not None
        session = later or session
        now += 60.0
    assert session.ends == LONGEST_S
    assert renewals < LONGEST_S / (IDLE_S / 2)


async def test_the_cookie_opens_no_route_of_the_api(allocator: Running) -> None:
    """A browser that is signed in can be made to send its cookie; the API asks for a key."""
    async with signed_in(allocator, allocator.team) as client:
        cookie = client.cookies[COOKIE]
    for method, path in (("GET", "/v1/budget"), ("POST", "/v1/runs")):
        answer = await allocator.http.request(method, path, headers={"Cookie": f"{COOKIE}={cookie}"})
        assert answer.status_code == 401
