"""Each method of each client, asynchronous and synchronous, is the one request that the contract names."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from rollout_budget.client import AdminClient, AllocatorClient, PriorClient, SyncPriorClient
from rollout_budget.wire import KeyCreate, RunPatch, Wire
from tests.client.routes import DECIDE, ROUTES, RUN, SECRET, VALUES, Route

URL = "http://allocator.test:8100"
KEY = "rb_key-of-the-team"


class Recorder:
    """Answers everything alike and keeps what was asked."""

    def __init__(self, answer: Wire) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = answer

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(200, content=self._answer.model_dump_json())

    @property
    def last(self) -> httpx.Request:
        """The last request."""
        return self.requests[-1]


def as_sent(route: Route, request: httpx.Request, answer: Any) -> None:
    """Check a call against its route."""
    assert (request.method, request.url.raw_path.decode()) == (route.method, route.target)
    assert request.headers["authorization"] == f"Bearer {KEY}"
    bodies = [part for part in route.args if isinstance(part, Wire)]
    sent = [type(body).model_validate_json(request.content) for body in bodies]
    assert sent == bodies
    assert ("content-type" in request.headers) == bool(bodies)
    assert answer == route.answer


@pytest.mark.parametrize("route", ROUTES, ids=str)
async def test_asynchronous_call_is_its_route(route: Route) -> None:
    recorder = Recorder(route.answer)
    async with route.client[0](URL, KEY, transport=httpx.MockTransport(recorder)) as client:
        answer = await route.call(client)
    as_sent(route, recorder.last, answer)


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_synchronous_call_is_its_route(route: Route) -> None:
    recorder = Recorder(route.answer)
    with route.client[1](URL, KEY, transport=httpx.MockTransport(recorder)) as client:
        answer = route.call(client)
    as_sent(route, recorder.last, answer)


async def test_a_patch_says_nothing_of_what_stays() -> None:
    """Null would read as "no limit", so absent fields are not sent at all."""
    recorder = Recorder(RUN)
    async with AllocatorClient(URL, KEY, transport=httpx.MockTransport(recorder)) as client:
        await client.patch_run("r", RunPatch(price=0.5))
    assert recorder.last.content == b'{"price":0.5}'


async def test_creating_a_key_is_idempotent_within_and_across_calls() -> None:
    """A call mints an id of its own unless the caller brings one."""
    recorder = Recorder(SECRET)
    async with AdminClient(URL, KEY, transport=httpx.MockTransport(recorder)) as client:
        await client.create_key(KeyCreate(team="t"))
        await client.create_key(KeyCreate(team="t"))
        await client.create_key(KeyCreate(team="t"), idempotency_key="mine")
    first, second, third = (request.headers["idempotency-key"] for request in recorder.requests)
    assert first != second
    assert third == "mine"


async def test_a_service_key_speaks_for_teams_over_one_pool() -> None:
    """`for_team` names the team in a header and leaves the client it was called on as it was."""
    recorder = Recorder(next(route for route in ROUTES if route.name == "values").answer)
    async with PriorClient(URL, KEY, team="first", transport=httpx.MockTransport(recorder)) as client:
        await client.for_team("zweite Gruppe/ä").values(VALUES)
        await client.values(VALUES)
    teams = [request.headers["rollout-budget-team"] for request in recorder.requests]
    assert teams == ["zweite%20Gruppe%2F%C3%A4", "first"]


def test_without_a_team_no_header_is_sent() -> None:
    recorder = Recorder(next(route for route in ROUTES if route.name == "values").answer)
    with SyncPriorClient(URL, KEY, transport=httpx.MockTransport(recorder)) as client:
        client.values(VALUES)
    assert "rollout-budget-team" not in recorder.last.headers


async def test_a_service_may_live_below_a_path() -> None:
    recorder = Recorder(next(route for route in ROUTES if route.name == "decide").answer)
    async with AllocatorClient(f"{URL}/budget/", KEY, transport=httpx.MockTransport(recorder)) as client:
        await client.decide(DECIDE)
    assert recorder.last.url.raw_path == b"/budget/v1/decide"
