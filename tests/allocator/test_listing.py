"""Runs in stable pages, and usage of any team for an admin: whole, in order, and nobody else's (G14)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollout_budget.wire import CloseGroup, CloseRequest, OpenGroup, OpenRequest, RunSpec
from tests.allocator.running import Running, running

RUNS = ["Zoe", "alpha", "beta/1", "zeta", "Émile"]
"""In the order of characters, which is none that a language has."""


@pytest.fixture
async def two_teams(any_database: str, tmp_path: Path) -> AsyncIterator[Running]:
    """Team `mine` with five runs, of which one has drawn 3 of 4 and one is finished; team `theirs` with one."""
    async with running(tmp_path, any_database) as allocator:
        await allocator.new_key("mine")
        await allocator.new_key("theirs")
        engine = allocator.service.engine
        for run_id in reversed(RUNS):
            await engine.create_run("mine", RunSpec(run_id=run_id, policy=f"of {run_id}", k_init=4))
        await engine.create_run("theirs", RunSpec(run_id="secret", policy="p", k_init=2))
        await engine.open("theirs", "secret", OpenRequest(groups=[OpenGroup(group_id="g", prompt_key="k")]))
        groups = [OpenGroup(group_id=name, prompt_key="k") for name in "gh"]
        await engine.open("mine", "alpha", OpenRequest(groups=groups))
        await engine.close("mine", "alpha", CloseRequest(groups=[CloseGroup(group_id="g", used=5)]))
        await engine.finish_run("mine", "zeta")
        yield allocator


async def ask(allocator: Running, path: str, **params: Any) -> Any:
    """Ask as team `mine`."""
    headers = await allocator.new_key("mine", "read")
    answer = await allocator.http.get(f"/v1/{path}", headers=headers, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_runs_are_listed_with_what_they_drew(two_teams: Running) -> None:
    """Of this team alone; of one status where that is asked for."""
    runs = (await ask(two_teams, "runs"))["runs"]
    assert [run["run_id"] for run in runs] == RUNS
    assert runs[1] == {
        "run_id": "alpha",
        "policy": "of alpha",
        "status": "running",
        "granted": 8,
        "used": 5,
        "held": 4,
    }
    assert runs[0] == {
        "run_id": "Zoe",
        "policy": "of Zoe",
        "status": "running",
        "granted": 0,
        "used": 0,
        "held": 0,
    }
    finished = await ask(two_teams, "runs", status="finished")
    assert [run["run_id"] for run in finished["runs"]] == ["zeta"]
    running_ = await ask(two_teams, "runs", status="running")
    assert [run["run_id"] for run in running_["runs"]] == [name for name in RUNS if name != "zeta"]


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6])
async def test_pages_of_runs_add_up_while_runs_are_made(two_teams: Running, limit: int) -> None:
    """Every run once; one that comes meanwhile is read if it lies ahead, and moves no other."""
    pages = [await ask(two_teams, "runs", limit=limit)]
    for run_id in ("AAA", "zz"):
        await two_teams.service.engine.create_run("mine", RunSpec(run_id=run_id, policy="p"))
    while pages[-1]["next"] is not None:
        pages.append(await ask(two_teams, "runs", limit=limit, after=pages[-1]["next"]))
    ahead = [] if limit > 4 else ["zz"]
    assert [run["run_id"] for page in pages for run in page["runs"]] == sorted([*RUNS, *ahead])


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 501}, {"after": ""}, {"status": "lost"}])
async def test_what_cannot_be_asked_is_422(allocator: Running, params: dict[str, Any]) -> None:
    answer = await allocator.http.get("/v1/runs", headers=allocator.team, params=params)
    assert answer.status_code == 422


async def test_an_admin_sees_the_usage_of_any_team_and_of_all(two_teams: Running) -> None:
    """The same rows as the team sees, in pages and as CSV too; a team that is not there is 404."""

    async def show(**params: str) -> Any:
        return await two_teams.http.get("/v1/admin/usage", headers=two_teams.admin, params=params)

    mine = (await show(team="mine", by="run,day")).json()
    assert mine == await ask(two_teams, "usage", by="run,day")
    everybody = (await show()).json()["rows"]
    assert [(row["team"], row["counts"]["granted"]) for row in everybody] == [("mine", 8), ("theirs", 2)]
    page = await show(limit="1")
    assert page.json()["rows"] == everybody[:1]
    following = await two_teams.http.get(page.links["next"]["url"], headers=two_teams.admin)
    assert following.json()["rows"] == everybody[1:]
    assert (await show(by="team", format="csv")).text.splitlines()[2].startswith("theirs,2,")
    absent = await show(team="nobody")
    assert (absent.status_code, absent.json()["code"]) == (404, "not-found")
    assert (await show(by="group")).status_code == 422


async def test_g14_a_team_cannot_name_another(two_teams: Running) -> None:
    """The parameter is the admin's: a team's own question has no such thing, and the admin's route is closed to it."""
    headers = await two_teams.new_key("mine")
    for path in ("usage", "runs", "entries", "budget"):
        answer = await two_teams.http.get(f"/v1/{path}", headers=headers, params={"team": "theirs"})
        assert answer.status_code == 422 or "secret" not in answer.text
        assert "theirs" not in answer.text or answer.status_code == 422
    answer = await two_teams.http.get("/v1/admin/usage", headers=headers, params={"team": "theirs"})
    assert answer.status_code == 403
