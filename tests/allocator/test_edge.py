"""G13, G17, G18 at the edge of a whole allocator: who is let in before a body is read, and what the others are told."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from rollout_budget.client import AllocatorClient, ResilientAllocator, Retries
from rollout_budget.engine import Engine, HistoryPrior, MemoryStore
from rollout_budget.engine.stateless import decide
from rollout_budget.errors import InvalidInput
from rollout_budget.wire import DecideRequest, OpenGroup, OpenRequest, RunSpec
from services.kit import edge
from services.kit.admission import Limits
from services.kit.edge import MAX_TEAMS, Counts, Edge, outside
from services.kit.offload import LARGE, Thread
from tests.allocator.databases import fresh_sqlite
from tests.allocator.running import Running, running
from tests.allocator.test_metrics import samples
from tests.load.scenarios import large_decision

SLOW: dict[str, Any] = {"requests_per_s": 0.01, "request_burst": 3.0}
"""Three requests, and the next one a minute and a half later."""


async def raw(app: FastAPI, headers: dict[str, str], path: str = "/v1/decide") -> tuple[int, dict[bytes, bytes]]:
    """Send a request whose body must not be read; return status and headers of the answer."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    named = [(name.lower().encode(), value.encode()) for name, value in {**headers, "content-length": "9"}.items()]
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": named, "scheme": "http", "server": ("a", 80), "client": ("b", 1), "root_path": "", "app": app,
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


async def test_g13_a_team_beyond_its_rate_is_429_and_others_are_served(tmp_path: Path) -> None:
    """With the time to come back, in a problem that says that the same request may be sent again."""
    async with running(tmp_path, fresh_sqlite(tmp_path), **SLOW) as made:
        other = await made.new_key("other")
        answers = [await made.http.get("/v1/budget", headers=made.team) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].headers["content-type"] == "application/problem+json"
        assert (answers[-1].json()["code"], answers[-1].json()["retryable"]) == ("rate-limited", True)
        assert 90 <= int(answers[-1].headers["retry-after"]) <= 100
        assert (await made.http.get("/v1/budget", headers=other)).status_code == 200
        assert (await raw(made.app, made.team))[0] == 429
        for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
            assert (await made.http.get(path, headers=made.team)).status_code == 200
        assert (await samples(made))["rollout_budget_requests_turned_away_total", ("default", "limited")] == 2


async def test_g13_a_body_over_the_rate_of_bytes_holds_up_the_next_request(tmp_path: Path) -> None:
    """No body is too large by itself; what follows waits until it is paid, declared or not."""
    body = b'{"groups": [' + b" " * 50_000 + b"]}"

    async def chunks() -> Any:
        yield body

    async with running(tmp_path, fresh_sqlite(tmp_path), bytes_per_s=1000.0, byte_burst=10_000.0) as made:
        for content, team in ((body, "declared"), (chunks(), "chunked")):
            headers = await made.new_key(team)
            first = await made.http.post("/v1/decide", content=content, headers=headers)
            again = await made.http.post("/v1/decide", content=b"{}", headers=headers)
            assert (first.status_code, again.status_code) == (422, 429)
            assert 35 <= int(again.headers["retry-after"]) <= 45


async def test_g13_wrong_keys_starve_nobody_and_have_no_body_read(tmp_path: Path) -> None:
    """They are refused before their body, then not even looked up; a key that was seen goes on."""
    async with running(tmp_path, fresh_sqlite(tmp_path), unknown_keys_per_s=1.0) as made:
        assert (await made.http.get("/v1/budget", headers=made.team)).status_code == 200
        found = [(await raw(made.app, made.bearer(f"rb_wrong-{place}")))[0] for place in range(30)]
        assert set(found) == {401, 429}
        assert found.count(401) <= 12
        assert (await raw(made.app, {}))[0] == 429
        assert (await made.http.get("/v1/budget", headers=made.team)).status_code == 200


async def test_g13_a_key_that_was_revoked_spends_nothing_of_its_team(tmp_path: Path) -> None:
    """Whoever holds it may repeat it: from the first refusal on it is a stranger's, however long it was good before."""
    async with running(tmp_path, fresh_sqlite(tmp_path), requests_per_s=0.01, request_burst=5.0) as made:
        body, once = {"team": "default"}, {"Idempotency-Key": "1"}
        secret = (await made.http.post("/v1/admin/keys", json=body, headers={**made.admin, **once})).json()
        stolen = made.bearer(secret["token"])
        assert (await made.http.get("/v1/budget", headers=stolen)).status_code == 200
        await made.http.delete(f"/v1/admin/keys/{secret['key_id']}", headers=made.admin)
        answers = [(await made.http.get("/v1/budget", headers=stolen)).status_code for _ in range(10)]
        assert answers == [401] * 10
        assert (await made.http.get("/v1/budget", headers=made.team)).status_code == 200


async def test_g13_a_trainer_that_is_limited_goes_on(tmp_path: Path) -> None:
    """A plain client says so when its time is up; the resilient one decides by itself."""
    async with running(tmp_path, fresh_sqlite(tmp_path), **SLOW) as made:
        client = AllocatorClient(
            "http://allocator",
            made.team["Authorization"].removeprefix("Bearer "),
            transport=httpx.ASGITransport(made.app),
            retries=Retries(attempts=2, wait_initial_s=0.0, wait_jitter_s=0.0),
        )
        async with client:
            trainer = ResilientAllocator(client)
            await trainer.create_run(RunSpec(run_id="r", policy="p"))
            answers = [
                await trainer.open("r", OpenRequest(groups=[OpenGroup(group_id=f"g{place}", prompt_key="k")]))
                for place in range(4)
            ]
            assert [answer.degraded for answer in answers] == [False, False, True, True]
            assert all(answer.groups[0].grant > 0 for answer in answers)


class Anybody:
    """Takes the key for the name of the team."""

    def recall(self, app: Any, headers: Headers) -> str | None:  # noqa: ARG002  as the edge asks
        return headers["authorization"]

    async def identify(self, app: Any, headers: Headers) -> str:
        raise NotImplementedError


class House:
    """An edge around an application that works until it is told to stop."""

    def __init__(self, **more: float) -> None:
        stated = {"units": 1, "team_units": 1, "queue": 1, "wait_s": 30.0, **more}
        limits = Limits(1e6, 1e6, 1e9, 1e9, strangers_per_s=1.0, **stated)  # type: ignore[arg-type]  # counts are whole
        self.registry = CollectorRegistry()
        self.edge = Edge(self.work, limits, Anybody(), self.registry)
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.go = asyncio.Event()
        self.away = False

    async def work(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI
        await self.begun.put(Headers(scope=scope)["authorization"])
        if self.away:
            async with outside():
                await self.go.wait()
        else:
            await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def request(self, team: str) -> asyncio.Task[int]:
        async def run() -> int:
            sent: list[Message] = []

            async def send(message: Message) -> None:
                sent.append(message)

            async def receive() -> Message:
                raise AssertionError("nobody reads")

            headers = [(b"authorization", team.encode())]
            await self.edge({"type": "http", "path": "/v1/x", "app": None, "headers": headers}, receive, send)
            return int(sent[0]["status"])

        return asyncio.create_task(run())

    def value(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"rollout_budget_{name}")


async def test_g17_who_waits_longer_than_the_bound_is_503() -> None:
    """And whoever works goes on; the place is free again afterwards."""
    house = House(wait_s=0.02)
    first = house.request("a")
    assert await house.begun.get() == "a"
    assert await house.request("b") == 503
    assert (house.value("queue_requests"), house.value("admitted_units")) == (0, 1)
    house.go.set()
    assert await first == 200
    assert await house.request("b") == 200


async def test_g17_a_full_line_is_503_at_once_and_not_for_the_quiet_one() -> None:
    """The loud team's own request leaves the line when another team's comes."""
    house = House()
    tasks = [house.request("loud") for _ in range(2)]
    assert await house.begun.get() == "loud"
    while house.value("queue_requests") != 1:  # noqa: ASYNC110  the loop has to turn a few times, nothing else
        await asyncio.sleep(0)
    async with asyncio.timeout(10):  # not after the 30 s that a request may wait here
        assert await house.request("loud") == 503
    quiet = house.request("quiet")
    assert await tasks[1] == 503
    house.go.set()
    assert (await tasks[0], await quiet) == (200, 200)
    assert house.value("queue_requests") == 0


async def test_g13_who_sends_slowly_keeps_nobody_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that never ends holds the only unit for a moment, not for as long as a body may take."""
    monkeypatch.setattr(edge, "BODY_PATIENCE_S", 0.01)
    house = House()
    ended: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    read: list[Message] = []

    async def reading(_scope: Scope, receive: Receive, send: Send) -> None:
        read.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def answer(team: str, receive: Receive) -> int:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/v1/x", "app": None, "headers": [(b"authorization", team.encode())]}
        await slow(scope, receive, send)
        return int(sent[0]["status"])

    async def whole() -> Message:
        return {"type": "http.request", "body": b"{}"}

    slow = edge.Edge(reading, house.edge._gate.limits, Anybody(), CollectorRegistry())
    async with asyncio.timeout(10):  # long before the 30 s that a body may take
        trickling = asyncio.create_task(answer("slow", lambda: ended))
        await asyncio.sleep(0)
        assert [await answer("quick", whole) for _ in range(3)] == [200] * 3
        assert not trickling.done()
        ended.set_result(await whole())
        assert await trickling == 200
    assert len(read) == 4


async def test_g17_a_cancelled_request_leaves_the_line() -> None:
    house = House()
    first, waiting = house.request("a"), house.request("b")
    assert await house.begun.get() == "a"
    while house.value("queue_requests") != 1:  # noqa: ASYNC110  the loop has to turn a few times, nothing else
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert house.value("queue_requests") == 0
    house.go.set()
    assert await first == 200


async def test_g13_who_waits_for_another_service_keeps_nobody_from_working() -> None:
    """A slow prior service does not fill the house."""
    house = House()
    house.away = True
    tasks = [house.request("a"), house.request("a")]
    assert [await house.begun.get() for _ in tasks] == ["a", "a"]
    house.go.set()
    assert [await task for task in tasks] == [200, 200]
    assert house.value("admitted_units") == 0


def test_g18_ten_thousand_teams_turned_away_are_a_bounded_number_of_series() -> None:
    """Beyond the bound they share one label, and none is lost from the sum."""
    registry = CollectorRegistry()
    counts = Counts(registry)
    for place in range(10_000):
        counts.turned_away(f"team-{place}", "limited")
    found = [
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "rollout_budget_requests_turned_away_total"
    ]
    assert len(found) == MAX_TEAMS + 1
    assert sum(found) == 10_000


async def test_g18_ten_thousand_paths_and_keys_add_a_bounded_number_of_series(allocator: Running) -> None:
    """Random paths, methods and tokens, in and outside of /v1."""
    before = len(await samples(allocator))
    for place in range(2_500):
        headers = allocator.bearer(f"rb_{place}")
        await allocator.http.get(f"/v1/runs/{place}", headers=headers)
        await allocator.http.get(f"/v1/{place}", headers=allocator.team)
        await allocator.http.request(f"M{place}", f"/{place}", headers=headers)
        await allocator.http.get(f"/v1/runs/{place}/x", headers=allocator.team)
    assert len(await samples(allocator)) - before < 100


async def test_g17_large_computations_leave_the_loop_and_answer_the_same() -> None:
    """From some hundred groups on they run in a thread; errors come back as they are."""
    loop_thread, compute = threading.get_ident(), Thread()
    try:
        assert await compute(threading.get_ident, LARGE - 1) == loop_thread
        assert await compute(threading.get_ident, LARGE) != loop_thread
        with pytest.raises(InvalidInput):
            await compute(_refuse, LARGE)
        for groups in (LARGE - 1, LARGE):
            request = DecideRequest.model_validate_json(large_decision(groups, 3))
            assert await Engine(MemoryStore(), HistoryPrior(), compute).decide(request) == decide(request)
    finally:
        compute.close()


def _refuse() -> None:
    raise InvalidInput("no")
