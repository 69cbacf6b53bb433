"""Keys across replicas: rotation, revocation, expiry, Idempotency-Keys and pages, on both databases."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
import pytest
import structlog
from sqlalchemy import func, select, update

from rollout_budget.wire import KeyCreate
from services.allocator import auth
from services.allocator.database.clock import now_s
from services.allocator.database.tables import changes, keys
from services.kit import logs
from tests.allocator.replicas import two
from tests.allocator.running import Running
from tests.allocator.test_access import ADMIN_ROUTES, OWN_ROUTES, ask

Pair = tuple[Running, Running]


@pytest.fixture
async def pair(tmp_path: Path, any_database: str) -> AsyncIterator[Pair]:
    """Two replicas."""
    async with two(tmp_path, any_database) as both:
        yield both


async def make(allocator: Running, once: str, **body: Any) -> httpx.Response:
    headers = {**allocator.admin, "Idempotency-Key": once}
    return await allocator.http.post("/v1/admin/keys", json={"team": "default", **body}, headers=headers)


async def rotate(allocator: Running, key_id: str, once: str, **body: Any) -> httpx.Response:
    headers = {**allocator.admin, "Idempotency-Key": once}
    return await allocator.http.post(f"/v1/admin/keys/{key_id}/rotate", json=body, headers=headers)


async def opens(allocator: Running, token: str) -> int:
    return await ask(allocator, "GET", "budget", None, allocator.bearer(token))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The processes' clock, which the test moves by `seconds`; the database's own stays."""
    clock = SimpleNamespace(seconds=0.0)
    clock.monotonic = lambda: clock.seconds
    monkeypatch.setattr(auth, "time", clock)
    return clock


async def test_revocation_reaches_every_replica_within_a_minute(pair: Pair, later: SimpleNamespace) -> None:
    """The replica that revoked refuses at once; the other, which trusted the key a moment ago, after 5 s."""
    here, there = pair
    made = (await make(here, "1")).json()
    assert [await opens(one, made["token"]) for one in pair] == [200, 200]
    revoked = await here.http.delete(f"/v1/admin/keys/{made['key_id']}", headers=here.admin)
    assert (revoked.json()["revoked"], revoked.json()["status"]) == (True, "revoked")
    assert await opens(here, made["token"]) == 401
    later.seconds = auth.CACHE_S
    assert auth.CACHE_S < 60
    assert await opens(there, made["token"]) == 401


async def test_a_rotated_key_dies_everywhere_when_its_grace_ends(pair: Pair, later: SimpleNamespace) -> None:
    """Until then both open; with no grace the old one ends at once; the new one is of the same team, scope and label."""
    here, there = pair
    made = (await make(here, "1", scope="read", label="dashboard", expires_in_s=1000)).json()
    answer = await rotate(there, made["key_id"], "2", grace_s=100)
    assert answer.status_code == 201
    new = answer.json()
    assert new["replaces"] == made["key_id"]
    assert {name: new[name] for name in ("team", "scope", "label")} == {
        "team": "default",
        "scope": "read",
        "label": "dashboard",
    }
    assert [await opens(one, key["token"]) for one in pair for key in (made, new)] == [200] * 4
    async with here.service.database.transaction() as connection:
        old = (
            await connection.execute(select(keys.c.expires_s - now_s()).where(keys.c.key_id == made["key_id"]))
        ).scalar()
        fresh = (
            await connection.execute(select(keys.c.expires_s - now_s()).where(keys.c.key_id == new["key_id"]))
        ).scalar()
        assert old is not None
        assert fresh is not None
        assert 90 < old <= 100
        assert 990 < fresh <= 1000
        ended = update(keys).where(keys.c.key_id == made["key_id"]).values(expires_s=now_s())
        await connection.execute(ended)
    later.seconds = auth.CACHE_S
    assert [await opens(one, key["token"]) for one in pair for key in (made, new)] == [401, 200, 401, 200]
    at_once = (await rotate(there, new["key_id"], "3", grace_s=0)).json()
    assert await opens(there, new["token"]) == 401
    assert await opens(there, at_once["token"]) == 200


async def test_a_grace_never_lengthens_a_life(pair: Pair) -> None:
    """A key that would end sooner than the grace still does."""
    here, _ = pair
    made = (await make(here, "1", expires_in_s=50)).json()
    await rotate(here, made["key_id"], "2", grace_s=1000)
    listed = (await here.http.get("/v1/admin/keys", headers=here.admin)).json()["keys"]
    assert next(key["expires_at"] for key in listed if key["key_id"] == made["key_id"]) == made["expires_at"]


async def test_a_key_rotates_once(pair: Pair) -> None:
    """Again with the same Idempotency-Key: the same token, from either replica. Otherwise 409 that says what to do."""
    here, there = pair
    made = (await make(here, "1")).json()
    first = await rotate(here, made["key_id"], "2")
    again = await rotate(there, made["key_id"], "2")
    assert first.json() == again.json()
    other = await rotate(there, made["key_id"], "3")
    assert (other.status_code, other.json()["code"], other.json()["retryable"]) == (409, "key-not-active", False)
    assert first.json()["key_id"] in other.json()["detail"]
    assert (await rotate(there, made["key_id"], "2", grace_s=0)).status_code == 422
    assert (await rotate(there, first.json()["key_id"], "2")).status_code == 422
    assert (await make(there, "2")).status_code == 422
    await here.http.delete(f"/v1/admin/keys/{first.json()['key_id']}", headers=here.admin)
    ended = await rotate(there, first.json()["key_id"], "4")
    assert (ended.status_code, "revoked" in ended.json()["detail"]) == (409, True)
    assert (await rotate(here, "nobody", "5")).status_code == 404
    headers = {**here.admin}
    missing = await here.http.post(f"/v1/admin/keys/{made['key_id']}/rotate", json={}, headers=headers)
    assert (missing.status_code, missing.json()["code"]) == (400, "idempotency-key-missing")


async def test_two_rotations_at_once_have_one_successor(pair: Pair) -> None:
    made = (await make(pair[0], "1")).json()
    answers = await asyncio.gather(*(rotate(pair[n % 2], made["key_id"], f"r{n}") for n in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409, 409]


async def test_g03_one_idempotency_key_makes_one_key_on_any_replica(pair: Pair) -> None:
    """Sent many times at once to both: every good answer is the same; the others say that it is being made."""
    answers = await asyncio.gather(*(make(pair[n % 2], "once", label="x") for n in range(8)))
    good = [answer.json() for answer in answers if answer.status_code == 201]
    assert good
    assert all(one == good[0] for one in good)
    refused = [answer for answer in answers if answer.status_code != 201]
    assert {(answer.status_code, answer.json()["code"], answer.json()["retryable"]) for answer in refused} <= {
        (409, "in-flight", True)
    }
    async with pair[0].service.database.transaction() as connection:
        assert await connection.scalar(select(func.count()).where(keys.c.label == "x")) == 1


@pytest.mark.postgres
@pytest.mark.parametrize("any_database", ["postgres"], indirect=True)
async def test_g03_a_twin_in_flight_on_another_replica_is_409(pair: Pair) -> None:
    """The first holds its Idempotency-Key in the database, not in its process; after it, the twin gets its answer."""
    here, there = pair
    async with here.service.directory() as directory:
        first = await directory.create_key(KeyCreate(team="default"), "once")
        busy = await make(there, "once")
        assert (busy.status_code, busy.json()["code"], busy.json()["retryable"]) == (409, "in-flight", True)
    after = await make(there, "once")
    assert (after.status_code, after.json()["token"]) == (201, first.token)


async def test_an_admin_key_of_the_database_works_like_that_of_the_settings(pair: Pair) -> None:
    """It reaches every admin route and no team's; revoked, it reaches nothing."""
    here, there = pair
    made = (await make(here, "1", scope="admin", label="operator")).json()
    headers = here.bearer(made["token"])
    for method, path, body in ADMIN_ROUTES:
        assert await ask(there, method, path, body, headers) not in {401, 403}, (method, path)
    for method, path, body in OWN_ROUTES:
        assert await ask(there, method, path, body, headers) == 403, (method, path)
    assert (await there.http.delete(f"/v1/admin/keys/{made['key_id']}", headers=headers)).status_code == 200
    assert await ask(there, "GET", "admin/keys", None, headers) == 401


async def test_no_team_key_rotates_a_key(pair: Pair) -> None:
    """Not even its own: a stolen one could keep itself alive."""
    here, _ = pair
    made = (await make(here, "1")).json()
    assert await ask(here, "POST", f"admin/keys/{made['key_id']}/rotate", {}, here.bearer(made["token"])) == 403


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_pages_of_keys_hold_every_key_once(pair: Pair, size: int) -> None:
    """In the order of creation, of one team or of all, also while keys are made between two pages."""
    here, there = pair
    await here.new_key("other")
    ids = [(await make(here, f"k{n}")).json()["key_id"] for n in range(4)]
    found: list[str] = []
    params: dict[str, Any] = {"team": "default", "limit": size}
    while True:
        page = (await there.http.get("/v1/admin/keys", params=params, headers=there.admin)).json()
        assert len(page["keys"]) <= size
        found += [key["key_id"] for key in page["keys"]]
        if page["next"] is None:
            break
        params["after"] = page["next"]
    assert found[1:] == ids
    everyone = (await here.http.get("/v1/admin/keys", headers=here.admin)).json()["keys"]
    assert {key["team"] for key in everyone} == {"default", "other"}
    lost = await here.http.get("/v1/admin/keys", params={"after": "nobody"}, headers=here.admin)
    assert (lost.status_code, "`next` of the last page" in lost.json()["detail"]) == (422, True)


async def test_pages_of_teams_hold_every_team_once(pair: Pair) -> None:
    here, there = pair
    for name in ("b", "a/x", "c"):
        await here.new_key(name)
    found: list[str] = []
    params: dict[str, Any] = {"limit": 2}
    while not found or "after" in params:
        page = (await there.http.get("/v1/admin/teams", params=params, headers=there.admin)).json()
        found += [team["team"] for team in page["teams"]]
        params = {"limit": 2, "after": page["next"]} if page["next"] else {}
    assert sorted(found) == ["a/x", "b", "c", "default"]
    assert len(found) == 4
    shown = (await there.http.get("/v1/admin/teams/a%2Fx", headers=there.admin)).json()
    assert shown["team"] == "a/x"


def dump(url: str) -> str:
    """Return a whole database as text."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            return "\n".join(connection.iterdump())
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        rows = [connection.execute(f'SELECT * FROM "{name}"'.encode()).fetchall() for (name,) in names]  # noqa: S608
        return str(rows)


async def test_g15_no_token_ever_is_in_a_dump_a_log_or_a_change(
    pair: Pair, any_database: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Created, rotated, repeated, revoked, refused: neither token nor Idempotency-Key nor pepper is kept anywhere."""
    here, there = pair
    caplog.set_level(logging.DEBUG)
    logs.configure(json_lines=True, level="DEBUG")
    made = (await make(here, "idempotency-of-creation")).json()
    rotated = (await rotate(there, made["key_id"], "idempotency-of-rotation")).json()
    await rotate(here, made["key_id"], "idempotency-of-rotation")
    last = (await rotate(here, rotated["key_id"], "idempotency-of-another", grace_s=0)).json()
    tokens = [one["token"] for one in (made, rotated, last)]
    for token in tokens:
        await opens(there, token)
    await here.http.delete(f"/v1/admin/keys/{last['key_id']}", headers=here.admin)
    await here.http.post("/v1/admin/keys", json={"team": "default", "scope": "x"}, headers=here.bearer(made["token"]))
    answers = [(await here.http.get(path, headers=here.admin)).text for path in ("/v1/admin/keys", "/v1/admin/changes")]
    answers += [(await here.http.get("/v1/changes", headers=here.team)).text, (await here.http.get("/metrics")).text]
    written = "".join(capfd.readouterr()) + caplog.text
    structlog.reset_defaults()
    files = "".join(path.read_bytes().decode("latin-1") for path in here.folder.glob("*.db*"))
    whole = dump(any_database)
    assert made["key_id"] in whole
    secrets = [*tokens, *(one["Authorization"].removeprefix("Bearer ") for one in (here.admin, here.team))]
    secrets += [here.service._pepper, "idempotency-of-"]
    for place in (whole, files, written, *answers):
        assert not [secret for secret in secrets if secret in place]


async def test_the_log_knows_every_key(pair: Pair) -> None:
    """One change per creation, rotation and revocation; none for a repetition or a refusal."""
    here, there = pair
    made = (await make(here, "1")).json()
    new = (await rotate(there, made["key_id"], "2")).json()
    await make(there, "1")
    await rotate(here, made["key_id"], "2")
    await rotate(here, made["key_id"], "3")
    for one in (here, there):
        await one.http.delete(f"/v1/admin/keys/{new['key_id']}", headers=one.admin)
    async with here.service.database.transaction() as connection:
        query = select(changes.c.action, changes.c.subject).order_by(changes.c.change_id)
        rows = [tuple(row) for row in await connection.execute(query)]
    old, fresh = f"key:{made['key_id']}", f"key:{new['key_id']}"
    assert [row for row in rows if row[1] in {old, fresh}] == [
        ("key.created", old),
        ("key.rotated", old),
        ("key.created", fresh),
        ("key.revoked", fresh),
    ]
