"""The routes, as a caller without our client sees them."""

from __future__ import annotations

import csv
import io
from typing import Any
from urllib.parse import quote

from httpx import Response

from tests.allocator.running import Running

RUN: dict[str, Any] = {"run_id": "r", "policy": "p", "k_init": 2, "limits": {"rollouts": 100}}


async def post(allocator: Running, path: str, body: object, headers: dict[str, str] | None = None) -> Response:
    return await allocator.http.post(f"/v1/{path}", json=body, headers=headers or allocator.team)


async def get(allocator: Running, path: str, **headers: str) -> Response:
    return await allocator.http.get(f"/v1/{path}", headers={**allocator.team, **headers})


async def test_a_step_from_open_to_close(allocator: Running) -> None:
    """One group goes through its life, and every rollout is accounted for."""
    created = await post(allocator, "runs", RUN)
    assert (created.status_code, created.headers["location"]) == (201, "/v1/runs/r")
    groups = [{"group_id": "g", "prompt_key": "k", "prior": {"value": 0.9}}, {"group_id": "h", "prompt_key": "k"}]
    opened = (await post(allocator, "runs/r/groups/open", {"groups": groups})).json()
    assert [group["grant"] for group in opened["groups"]] == [2, 2]
    assert [group["prior_source"] for group in opened["groups"]] == ["caller", "prior_service"]
    observed = await post(allocator, "runs/r/groups/observe", {"groups": [{"group_id": "g", "outcomes": [1, 0]}]})
    decision = observed.json()["groups"][0]
    assert len(decision["advantages"]) == 2
    assert decision["action"] in {"stop", "more"}
    held = 2 + decision["more"]
    closed = await post(
        allocator,
        "runs/r/groups/close",
        {"groups": [{"group_id": "g", "used": 2, "tokens": 7}, {"group_id": "h", "used": 3}]},
    )
    assert closed.json()["groups"] == [
        {"group_id": "g", "committed": 2, "released": held - 2, "overage": 0},
        {"group_id": "h", "committed": 2, "released": 0, "overage": 1},
    ]
    baselines = (await post(allocator, "runs/r/baselines", {"group_ids": ["g"]})).json()["groups"][0]
    assert baselines["advantages"] == decision["advantages"]
    usage = (await get(allocator, "runs/r")).json()["usage"]
    assert (usage["committed"], usage["overage"], usage["reserved"], usage["tokens"]) == (4, 1, 0, 7)
    assert usage["granted"] == usage["committed"] + usage["released"]
    assert usage["saved"] == 2 * 16 - 5
    assert (await get(allocator, "reservations/r/g/0/0")).json()["state"] == "committed"


async def test_ids_may_hold_slashes_and_any_script(allocator: Running) -> None:
    """A percent-encoded run id reaches every route, even one that looks like a route itself."""
    for run_id in ("a/b", "学習/1", "x/groups/open", "a/finish", "50%", "a%2Fb"):
        assert (await post(allocator, "runs", {**RUN, "run_id": run_id})).status_code == 201
        path = f"runs/{quote(run_id, safe='')}"
        assert (await get(allocator, path)).json()["spec"]["run_id"] == run_id
        group = {"group_id": "g/1", "prompt_key": "k"}
        assert (await post(allocator, f"{path}/groups/open", {"groups": [group]})).status_code == 200
        held = f"{quote(run_id, safe='')}/g%2F1/0/0"
        found = await get(allocator, "reservations/" + "/".join(quote(part, safe="") for part in held.split("/")))
        assert (found.json()["run_id"], found.json()["reservation_id"]) == (run_id, held)
        assert (await post(allocator, f"{path}/heartbeat", None)).json() == {"renewed": 1}
        assert (await post(allocator, f"{path}/finish", None)).json()["status"] == "finished"


async def test_a_run_is_patched_and_finished(allocator: Running) -> None:
    """A lowered limit stops new grants; a finished run opens nothing and says why."""
    await post(allocator, "runs", RUN)
    patched = await allocator.http.patch("/v1/runs/r", json={"limits": {"rollouts": 1}}, headers=allocator.team)
    assert patched.json()["spec"]["limits"]["rollouts"] == 1
    group = {"group_id": "g", "prompt_key": "k"}
    opened = (await post(allocator, "runs/r/groups/open", {"groups": [group]})).json()["groups"][0]
    assert opened["grant"] == 1
    spent = (await post(allocator, "runs/r/groups/open", {"groups": [{**group, "group_id": "h"}]})).json()["groups"][0]
    assert (spent["grant"], spent["reason"]) == (0, "budget_exhausted")
    await post(allocator, "runs/r/finish", None)
    late = await post(allocator, "runs/r/groups/open", {"groups": [{**group, "group_id": "i"}]})
    assert (late.status_code, late.json()["code"]) == (409, "run-finished")


async def test_decide_needs_no_run_and_stores_nothing(allocator: Running) -> None:
    """The stateless route answers, spends at most its budget, and leaves no row."""
    before = await allocator.rows()
    groups = [{"group_id": str(i), "prior": {"value": 0.5}, "outcomes": [1, 0]} for i in range(8)]
    answer = (await post(allocator, "decide", {"groups": groups, "budget": 5, "squared_prior_error": 0.2})).json()
    assert sum(group["more"] for group in answer["groups"]) == 5
    assert await allocator.rows() == before


async def test_usage_as_json_and_as_csv(allocator: Running) -> None:
    """Both forms say the same, in the order of the dimensions asked for."""
    for run_id in ("b", "a"):
        await post(allocator, "runs", {**RUN, "run_id": run_id})
        await post(allocator, f"runs/{run_id}/groups/open", {"groups": [{"group_id": "g", "prompt_key": "k"}]})
    rows = (await get(allocator, "usage?by=run,day")).json()["rows"]
    assert [(row["run"], row["counts"]["granted"], row["team"]) for row in rows] == [("a", 2, None), ("b", 2, None)]
    for table in (
        await get(allocator, "usage?by=run,day&format=csv"),
        await get(allocator, "usage?by=run,day", accept="text/csv"),
    ):
        assert table.headers["content-type"].startswith("text/csv")
        lines = list(csv.DictReader(io.StringIO(table.text)))
        assert [(line["run"], line["day"], line["granted"]) for line in lines] == [
            (row["run"], row["day"], "2") for row in rows
        ]
    for wrong in (
        "by=",
        "by=team,team",
        "by=prompt",
        "since=0",
        "since=2026-11-01T00:00:00",
        "limit=0",
        "after=?",
        "of=x",
    ):
        assert (await get(allocator, f"usage?{wrong}")).status_code == 422


async def test_usage_has_pages_that_lead_to_each_other(allocator: Running) -> None:
    """The `Link` of a page, JSON or CSV, is the next one with the same question."""
    for run_id in ("b", "a", "c"):
        await post(allocator, "runs", {**RUN, "run_id": run_id})
        await post(allocator, f"runs/{run_id}/groups/open", {"groups": [{"group_id": "g", "prompt_key": "k"}]})
    found: list[str] = []
    target = "/v1/usage?by=run&limit=2&format=csv"
    while target:
        page = await allocator.http.get(target, headers=allocator.team)
        found += [line["run"] for line in csv.DictReader(io.StringIO(page.text))]
        target = page.links["next"]["url"] if "next" in page.links else ""
    assert found == ["a", "b", "c"]


async def test_teams_limits_and_keys_are_the_admins(allocator: Running) -> None:
    """A team and its key are made, listed without secrets, limited and revoked."""
    made = await post(allocator, "admin/teams", {"team": "x", "limits": {"rollouts": 9}}, allocator.admin)
    assert (made.status_code, made.json()["limits"]["rollouts"]) == (201, 9)
    headers = {**allocator.admin, "Idempotency-Key": "one"}
    key = await post(allocator, "admin/keys", {"team": "x"}, headers)
    assert key.status_code == 201
    theirs = allocator.bearer(key.json()["token"])
    assert (await allocator.http.get("/v1/budget", headers=theirs)).json()["available"] == 9
    limited = await allocator.http.put("/v1/admin/budgets/x", json={"rollouts_per_day": 3}, headers=allocator.admin)
    assert (limited.json()["available"], limited.json()["limits"]["rollouts"]) == (3, None)
    listed = await allocator.http.get("/v1/admin/keys", headers=allocator.admin)
    assert key.json()["token"] not in listed.text
    assert key.json()["key_id"] in listed.text
    gone = await allocator.http.delete(key.headers["location"], headers=allocator.admin)
    assert gone.json()["revoked"]
    assert (await allocator.http.get("/v1/budget", headers=theirs)).status_code == 401


async def test_probes_need_no_key_and_readiness_asks_the_database(allocator: Running) -> None:
    """Livez always answers; readyz turns false when the service drains."""
    for path in ("/livez", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert (await allocator.http.get(path)).status_code == 200
    allocator.app.state.draining = True
    assert (await allocator.http.get("/readyz")).status_code == 503
    assert (await allocator.http.get("/livez")).status_code == 200
