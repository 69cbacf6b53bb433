"""The log of changes: who, when, what; in the transaction of the change; append-only; a team sees its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import DatabaseError

from rollout_budget.client import AdminClient
from rollout_budget.errors import Conflict, Unavailable
from rollout_budget.wire import TeamLimits
from services.allocator.database.changes import TURN, Changes
from services.allocator.database.tables import changes
from tests.allocator.replicas import two
from tests.allocator.running import Running, running


@pytest.fixture
async def service(tmp_path: Path, any_database: str) -> AsyncIterator[Running]:
    """A running allocator on either database."""
    async with running(tmp_path, any_database) as made:
        yield made


async def log(allocator: Running, headers: dict[str, str] | None = None, **params: Any) -> dict[str, Any]:
    path = "/v1/changes" if headers else "/v1/admin/changes"
    answer = await allocator.http.get(path, params=params, headers=headers or allocator.admin)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def newest(allocator: Running) -> dict[str, Any]:
    change: dict[str, Any] = (await log(allocator, limit=500))["changes"][-1]
    return change


async def put(allocator: Running, limits: dict[str, Any], headers: dict[str, str] | None = None) -> int:
    answer = await allocator.http.put(
        "/v1/admin/budgets/default", json=limits, headers={**allocator.admin, **(headers or {})}
    )
    return answer.status_code


async def test_every_change_says_who_when_and_what(service: Running) -> None:
    """Team, name, limits, a run's price: the key that did it, the database's clock, before and after."""
    http, admin = service.http, service.admin
    await http.post("/v1/admin/teams", json={"team": "t", "limits": {"rollouts": 5}}, headers=admin)
    change = await newest(service)
    assert change["by"] == {"key_id": "settings", "scope": "admin", "team": ""}
    assert (change["action"], change["team"], change["subject"], change["before"]) == (
        "team.created",
        "t",
        "team:t",
        None,
    )
    assert change["after"]["limits"]["rollouts"] == 5
    async with service.service.database.transaction() as connection:
        stored = await connection.scalar(select(changes.c.at_s).order_by(changes.c.change_id.desc()).limit(1))
    assert datetime.fromisoformat(change["at"]) == datetime.fromtimestamp(stored or 0, UTC)

    await http.patch("/v1/admin/teams/t", json={"name": "Team T"}, headers=admin)
    change = await newest(service)
    assert (change["action"], change["before"]["name"], change["after"]["name"]) == ("team.renamed", None, "Team T")

    assert await put(service, {"rollouts": 7}) == 200
    assert await put(service, {"rollouts_per_day": 3}) == 200
    change = await newest(service)
    assert (change["action"], change["subject"]) == ("budget.set", "budget:default")
    assert (change["before"]["rollouts"], change["before"]["rollouts_per_day"]) == (7, None)
    assert (change["after"]["rollouts"], change["after"]["rollouts_per_day"]) == (None, 3)

    assert (await http.post("/v1/runs", json={"run_id": "r", "policy": "p"}, headers=service.team)).status_code == 201
    patch = {"price": 0.25, "limits": {"rollouts": 9}}
    assert (await http.patch("/v1/runs/r", json=patch, headers=service.team)).status_code == 200
    change = await newest(service)
    keys = (await http.get("/v1/admin/keys", headers=admin)).json()["keys"]
    assert change["by"] == {"key_id": keys[0]["key_id"], "scope": "team", "team": "default"}
    assert (change["action"], change["team"], change["subject"]) == ("run.patched", "default", "run:r")
    assert (change["before"]["price"], change["before"]["limits"]["rollouts"]) == (None, None)
    assert (change["after"]["price"], change["after"]["limits"]["rollouts"]) == (0.25, 9)


async def test_nothing_is_written_where_nothing_changed(service: Running) -> None:
    """Repetitions, the same limits again, refusals."""
    http, admin, team = service.http, service.admin, service.team
    await http.post("/v1/runs", json={"run_id": "r", "policy": "p"}, headers=team)
    requests: list[tuple[str, str, Any, dict[str, str]]] = [
        ("POST", "admin/teams", {"team": "t"}, admin),
        ("PATCH", "admin/teams/t", {"name": "T"}, admin),
        ("PUT", "admin/budgets/t", {"rollouts": 5}, admin),
        ("PATCH", "runs/r", {"price": 0.5}, team),
    ]
    for method, path, body, headers in requests:
        await http.request(method, f"/v1/{path}", json=body, headers=headers)
    before = await log(service)
    refused: list[tuple[str, str, Any, dict[str, str]]] = [
        ("POST", "admin/teams", {"team": "t", "name": "other"}, admin),
        ("PATCH", "admin/teams/nobody", {"name": "T"}, admin),
        ("PUT", "admin/budgets/nobody", {}, admin),
        ("PUT", "admin/budgets/t", {"rollouts": -5}, admin),
        ("PUT", "admin/budgets/t", {"rollouts": 6}, team),
        ("PATCH", "runs/nobody", {"price": 0.5}, team),
    ]
    for method, path, body, headers in [*requests, *refused]:
        await http.request(method, f"/v1/{path}", json=body, headers=headers)
    assert await log(service) == before


async def test_g09_a_change_that_cannot_be_logged_is_not_made(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log and change are one transaction: for limits, keys, teams and runs."""

    async def fail(*_: object) -> None:
        raise Unavailable("the log is full")

    await service.http.post("/v1/runs", json={"run_id": "r", "policy": "p"}, headers=service.team)
    listed = (await service.http.get("/v1/admin/keys", headers=service.admin)).json()
    rows = await service.rows()
    monkeypatch.setattr(Changes, "record", fail)
    once = {**service.admin, "Idempotency-Key": "1"}
    key_id = listed["keys"][0]["key_id"]
    requests: list[tuple[str, str, Any, dict[str, str]]] = [
        ("POST", "admin/teams", {"team": "t"}, service.admin),
        ("PATCH", "admin/teams/default", {"name": "T"}, service.admin),
        ("PUT", "admin/budgets/default", {"rollouts": 5}, service.admin),
        ("POST", "admin/keys", {"team": "default"}, once),
        ("POST", f"admin/keys/{key_id}/rotate", {}, once),
        ("DELETE", f"admin/keys/{key_id}", None, service.admin),
        ("PATCH", "runs/r", {"price": 0.5}, service.team),
    ]
    for method, path, body, headers in requests:
        answer = await service.http.request(method, f"/v1/{path}", json=body, headers=headers)
        assert answer.status_code == 503, (method, path)
    assert await service.rows() == rows
    assert (await service.http.get("/v1/admin/keys", headers=service.admin)).json() == listed
    assert (await service.http.get("/v1/runs/r", headers=service.team)).json()["spec"]["price"] is None
    shown = (await service.http.get("/v1/admin/teams/default", headers=service.admin)).json()
    assert (shown["name"], shown["limits"]["rollouts"]) == (None, None)


async def test_g02_the_log_is_append_only(service: Running) -> None:
    """A trigger refuses to alter or delete a line, whoever asks."""
    await put(service, {"rollouts": 1})
    before = await log(service)
    for statement in (update(changes).values(team="x"), delete(changes)):
        with pytest.raises(DatabaseError, match="changes are append-only"):
            async with service.service.database.engine.begin() as connection:
                await connection.execute(statement)
    assert await log(service) == before


async def test_g14_a_team_sees_its_own_changes_and_no_others(service: Running) -> None:
    """Whatever it asks for; an admin sees all and may choose."""
    stranger = await service.new_key("stranger")
    reader = await service.new_key("default", "read")
    await put(service, {"rollouts": 1})
    everything = (await log(service))["changes"]
    assert {one["team"] for one in everything} == {"default", "stranger"}
    for headers, team in ((stranger, "stranger"), (service.team, "default"), (reader, "default")):
        assert (await log(service, headers))["changes"] == [one for one in everything if one["team"] == team]
        assert (await log(service, team=team))["changes"] == [one for one in everything if one["team"] == team]
    for subject in (
        "budget:default",
        "team:default",
        next(o["subject"] for o in everything if o["action"] == "key.created"),
    ):
        assert (await log(service, stranger, subject=subject))["changes"] == []
        chosen = [one for one in everything if one["subject"] == subject]
        assert (await log(service, subject=subject))["changes"] == chosen != []
    assert (await log(service, stranger, team="default"))["changes"] == (await log(service, stranger))["changes"]


@pytest.mark.parametrize("size", [1, 2, 500])
async def test_pages_hold_every_change_once_while_more_are_made(service: Running, size: int) -> None:
    """Reading on after the last number misses none and repeats none."""
    for n in range(3):
        await put(service, {"rollouts": n})
    found: list[int] = []
    after, page_no = 0, 0
    while True:
        page = await log(service, after=after, limit=size)
        found += [one["change_id"] for one in page["changes"]]
        if page["next"] is None:
            break
        after = page["next"]
        page_no += 1
        if page_no < 3:
            await put(service, {"rollouts": 100 + page_no})
    async with service.service.database.transaction() as connection:
        assert found == list((await connection.execute(select(changes.c.change_id).order_by("change_id"))).scalars())


@pytest.mark.postgres
@pytest.mark.parametrize("any_database", ["postgres"], indirect=True)
async def test_changes_are_numbered_in_the_order_of_their_commits(tmp_path: Path, any_database: str) -> None:
    """A reader never sees a number before a smaller one that is still to come: the second writer waits for the first."""
    async with two(tmp_path, any_database) as (here, there):
        waiting = (
            select(func.count()).select_from(text("pg_locks")).where(text("locktype = 'advisory' AND NOT granted"))
        )
        first, last = (await newest(here))["change_id"], 0
        async with here.service.directory() as directory:
            await directory.set_budget("default", TeamLimits(rollouts=1))
            second = asyncio.create_task(there.new_key("other"))
            while not last and not second.done():
                async with there.service.database.transaction() as connection:
                    last = int(await connection.scalar(waiting) or 0)
            assert (await newest(there))["change_id"] == first
        await second
        actions = [one["action"] for one in (await log(here, after=first))["changes"]]
        assert actions == ["budget.set", "team.created", "key.created"]
        assert 0 < TURN < 2**63


async def test_limits_made_from_others_than_those_that_stand_are_refused(service: Running) -> None:
    """Two operators read the same limits; the second to write is told, and nothing changes."""
    token = service.admin["Authorization"].removeprefix("Bearer ")
    async with AdminClient("http://allocator", token, transport=service.http._transport) as client:
        read = (await client.show_budget("default")).limits
        await client.set_budget("default", TeamLimits(rollouts=5), expected=read)
        with pytest.raises(Conflict, match="changed meanwhile"):
            await client.set_budget("default", TeamLimits(rollouts=6), expected=read)
        assert (await client.show_budget("default")).limits.rollouts == 5
        await client.set_budget("default", TeamLimits(rollouts=6), expected=TeamLimits(rollouts=5))
        await client.set_budget("default", TeamLimits(rollouts=7))


async def test_g11_two_changes_of_one_budget_at_once_are_a_chain(tmp_path: Path, any_database: str) -> None:
    """What each says stood before is what the one before it left, from whichever replica."""
    async with two(tmp_path, any_database) as both:
        assert set(await asyncio.gather(*(put(both[n % 2], {"rollouts": n + 1}) for n in range(8)))) == {200}
        chain = (await log(both[0], subject="budget:default"))["changes"]
        assert len(chain) == 8
        assert [one["before"] for one in chain[1:]] == [one["after"] for one in chain[:-1]]
