"""A team is closed and reopened: keys and grants end in one transaction, what was used stays, and nothing slips through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    KeyCreate,
    KeyRotate,
    OpenGroup,
    OpenRequest,
    RunSpec,
    TeamLimits,
)
from services.allocator import auth
from services.allocator.database import migrate
from services.allocator.database.changes import Changes
from services.allocator.errors import TeamClosed
from services.kit.database import connect
from tests.allocator.databases import fresh_postgres, fresh_sqlite
from tests.allocator.replicas import two
from tests.allocator.running import Running, running

LIMITS = TeamLimits(rollouts=100, rollouts_per_day=50, mode="shadow", warn_at=0.5)


@pytest.fixture
async def service(any_database: str, tmp_path: Path) -> AsyncIterator[Running]:
    """An allocator with a team `t` that has limits, two keys, a run and a group that holds 4 rollouts."""
    async with running(tmp_path, any_database) as allocator:
        await allocator.new_key("t", limits=LIMITS)
        await allocator.service.engine.create_run("t", RunSpec(run_id="r", policy="p", k_init=4))
        await opened(allocator, "g")
        yield allocator


async def opened(allocator: Running, group: str) -> tuple[int, str | None]:
    """Open a group past the door, as a request does that came before its key ended."""
    request = OpenRequest(groups=[OpenGroup(group_id=group, prompt_key="k")])
    found = (await allocator.service.engine.open("t", "r", request)).groups[0]
    return found.grant, found.reason


async def post(allocator: Running, path: str, body: object = None, **headers: str) -> httpx.Response:
    return await allocator.http.post(f"/v1/admin/{path}", json=body, headers={**allocator.admin, **headers})


async def log(allocator: Running) -> list[dict[str, Any]]:
    answer = await allocator.http.get("/v1/admin/changes?team=t&limit=500", headers=allocator.admin)
    found: list[dict[str, Any]] = answer.json()["changes"]
    return found


async def test_closing_ends_keys_and_grants_and_keeps_everything(service: Running) -> None:
    """Every key is refused at once, nothing more is granted, what is held can be settled, usage stays."""
    keys = [await service.new_key("t", "read", LIMITS), await service.new_key("t", label="another", limits=LIMITS)]
    before = await service.rows()
    closed = (await post(service, "teams/t/close")).json()
    assert closed["closed_at"] is not None
    assert (closed["limits"]["rollouts"], closed["limits"]["mode"]) == (0, "enforce")
    for headers in keys:
        assert (await service.http.get("/v1/budget", headers=headers)).status_code == 401
    assert await opened(service, "late") == (0, "budget_exhausted")
    assert await opened(service, "g") == (4, "first_wave")  # again, as it was answered before
    settled = CloseRequest(groups=[CloseGroup(group_id="g", used=3)])
    assert (await service.service.engine.close("t", "r", settled)).groups[0].committed == 3
    view = (await service.http.get("/v1/admin/budgets/t", headers=service.admin)).json()
    assert (view["usage"]["committed"], view["available"]) == (3, -3)
    after = await service.rows()
    assert all(after[name] >= count for name, count in before.items())
    listed = (await service.http.get("/v1/admin/teams", headers=service.admin)).json()["teams"]
    assert [(team["team"], team["closed_at"] is not None) for team in listed] == [("default", False), ("t", True)]


async def test_a_closed_team_gets_neither_keys_nor_limits(service: Running) -> None:
    """409 with what to do; a key that had ended before is not rotated back to life either."""
    listed = await service.http.get("/v1/admin/keys?team=t", headers=service.admin)
    key_id = listed.json()["keys"][0]["key_id"]
    await post(service, "teams/t/close")
    before = await service.rows()
    refused = [
        await post(service, "keys", {"team": "t"}, **{"Idempotency-Key": "new"}),
        await post(service, f"keys/{key_id}/rotate", {}, **{"Idempotency-Key": "rotated"}),
        await service.http.put("/v1/admin/budgets/t", json={"rollouts": 9}, headers=service.admin),
    ]
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (409, "team-closed")
        assert "reopen it first" in answer.json()["detail"]
    assert await service.rows() == before
    assert (await post(service, "teams/nobody/close")).status_code == 404
    assert (await post(service, "teams/nobody/reopen")).status_code == 404


async def test_reopening_gives_the_limits_back_and_no_key(service: Running) -> None:
    """To the last setting; a new key works, the old ones have ended for good."""
    old = await service.new_key("t", label="another", limits=LIMITS)
    await post(service, "teams/t/close")
    assert (await post(service, "teams/t/reopen")).json()["closed_at"] is None
    view = (await service.http.get("/v1/admin/budgets/t", headers=service.admin)).json()
    assert TeamLimits.model_validate(view["limits"]) == LIMITS
    assert (await service.http.get("/v1/budget", headers=old)).status_code == 401
    new = await service.new_key("t", label="new", limits=LIMITS)
    assert (await service.http.get("/v1/budget", headers=new)).status_code == 200
    assert await opened(service, "again") == (4, "first_wave")


async def test_once_more_changes_nothing_and_the_log_says_who(service: Running) -> None:
    """Each key that ended, then the team, as it was and as it is; a second close or reopen is in no log."""
    await service.new_key("t", "read", LIMITS)
    begun = len(await log(service))
    for action in ("close", "reopen"):
        first, again = await post(service, f"teams/t/{action}"), await post(service, f"teams/t/{action}")
        assert first.json() == again.json()
    written = (await log(service))[begun:]
    assert [change["action"] for change in written] == [
        "key.revoked",
        "key.revoked",
        "team.closed",
        "team.reopened",
    ]
    assert {change["by"]["key_id"] for change in written} == {"settings"}
    closed, reopened = written[2:]
    assert (closed["before"]["limits"]["rollouts"], closed["after"]["limits"]["rollouts"]) == (100, 0)
    assert closed["before"]["closed_at"] is None
    assert (reopened["before"], reopened["after"]) == (closed["after"], closed["before"])


async def test_an_admin_does_not_lock_itself_out(service: Running) -> None:
    """Whose key belongs to the team is told to use another's; the admin key of the settings belongs to none."""
    own = await service.new_key("t", "admin", LIMITS)
    refused = await service.http.post("/v1/admin/teams/t/close", headers=own)
    assert (refused.status_code, refused.json()["code"]) == (409, "own-team")
    assert (await service.http.get("/v1/admin/teams", headers=own)).status_code == 200
    assert (await post(service, "teams/t/close")).status_code == 200


async def test_it_is_one_transaction(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails at its end has revoked no key, lowered no limit and closed nothing."""
    key = await service.new_key("t", label="another", limits=LIMITS)
    real = Changes.record

    async def lost(self: Changes, action: Any, *rest: Any) -> None:
        await real(self, action, *rest)
        if action == "team.closed":
            raise ConnectionResetError

    monkeypatch.setattr(Changes, "record", lost)
    assert (await post(service, "teams/t/close")).status_code == 500
    monkeypatch.undo()
    assert (await service.http.get("/v1/budget", headers=key)).json()["limits"]["rollouts"] == 100
    assert "team.closed" not in [change["action"] for change in await log(service)]


async def test_closing_reaches_every_replica(
    any_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one trusts the key for 5 s and grants nothing meanwhile."""
    clock = SimpleNamespace(seconds=0.0)
    clock.monotonic = lambda: clock.seconds
    monkeypatch.setattr(auth, "time", clock)
    async with two(tmp_path, any_database) as (here, there):
        key = await here.new_key("t")
        assert (await there.http.post("/v1/runs", json={"run_id": "r", "policy": "p"}, headers=key)).status_code == 201
        await post(here, "teams/t/close")
        group = {"groups": [{"group_id": "g", "prompt_key": "k"}]}
        answer = await there.http.post("/v1/runs/r/groups/open", json=group, headers=key)
        assert answer.json()["groups"][0]["grant"] == 0
        assert (await here.http.get("/v1/budget", headers=key)).status_code == 401
        clock.seconds = auth.CACHE_S
        assert (await there.http.get("/v1/budget", headers=key)).status_code == 401


@pytest.mark.postgres
@pytest.mark.parametrize("making", ["create", "rotate"])
async def test_no_key_slips_through_while_a_team_is_closed(tmp_path: Path, making: str) -> None:
    """A request for a key that comes in the middle waits for the closing, and is refused."""
    async with running(tmp_path, fresh_postgres()) as allocator:
        service = allocator.service
        async with service.directory() as directory:
            await directory.create_key(KeyCreate(team="default"), "first")
            key_id = (await directory.keys("default")).keys[-1].key_id

        async def make() -> None:
            async with service.directory() as other:
                await other._connection.execute(text("SET LOCAL lock_timeout = 0"))
                if making == "create":
                    await other.create_key(KeyCreate(team="default"), "second")
                else:
                    await other.rotate_key(key_id, KeyRotate(), "second")

        async with service.directory() as directory:
            await directory.close_team("default")
            asked = asyncio.create_task(make())
            async with service.database.engine.connect() as watching:
                while not await watching.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                    pass
        with pytest.raises(TeamClosed):
            await asked
        async with service.directory() as directory:
            assert {key.status for key in (await directory.keys("default")).keys} == {"revoked"}


async def test_g19_teams_of_the_release_before_are_open(any_database: str) -> None:
    """Also after a downgrade and an upgrade in which a team was closed: it stays without grants until it is set anew."""
    engine = connect(any_database)
    await migrate.downgrade(engine, "0009")
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO teams (team, fingerprint, created_s) VALUES ('of the release before', '', 0)")
        )
    await migrate.upgrade(engine)
    async with engine.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM closures")) == 0
    await engine.dispose()


def test_the_embedded_mode_starts_with_its_team_closed(tmp_path: Path) -> None:
    """Its key stays ended: a start of the service is no way in."""

    async def close_and_start_again() -> int:
        url = fresh_sqlite(tmp_path)
        async with running(tmp_path, url) as allocator:
            assert (await post(allocator, "teams/default/close")).status_code == 200
        async with running(tmp_path, url) as allocator:
            return (await allocator.http.get("/v1/budget", headers=allocator.team)).status_code

    assert asyncio.run(close_and_start_again()) == 401
