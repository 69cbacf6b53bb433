"""A real allocator behind a network that loses things: the engine on its in-memory ledger, spoken to over HTTP.

Owns a minimal routing of `/v1` to `Engine` (the service proper adds storage, keys and metrics) and the faults of the
way there and back. The clock is the test's, for leases and for the client's breaker alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from enum import Enum
from itertools import repeat
from typing import Any
from urllib.parse import unquote

import httpx

from rollout_budget.client import AllocatorClient, Breaker, Notice, ResilientAllocator, Retries
from rollout_budget.engine import Engine, HistoryPrior, MemoryStore
from rollout_budget.errors import RolloutBudgetError
from rollout_budget.wire import (
    BaselinesRequest,
    CloseRequest,
    DecideRequest,
    ObserveRequest,
    OpenRequest,
    PlanRequest,
    Problem,
    RunPatch,
    RunSpec,
    TeamLimits,
)

TEAM = "team"


class Fault(Enum):
    """What happens to one request."""

    NONE = "delivered and answered"
    BEFORE = "no connection"
    AFTER = "delivered, the answer lost"
    LATE = "held back by the network and delivered before the next request, its answer lost"
    SHED = "503"
    FAILED = "500"


class Clock:
    """Seconds that the test lets pass."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Service(httpx.AsyncBaseTransport):
    """The allocator and the network before it. `faults` are taken one per request; when they end all is well."""

    def __init__(self, limit: int | None = None) -> None:
        self.clock = Clock()
        self.priors = HistoryPrior()
        self.engine = Engine(MemoryStore(self.clock), self.priors)
        self.faults: Iterator[Fault] = iter(())
        self.seen: list[str] = []
        self._late: list[httpx.Request] = []
        self._limit = limit

    def suffer(self, faults: Iterable[Fault]) -> None:
        """Set what happens to the next requests."""
        self.faults = iter(faults)

    def die(self) -> None:
        """No connection, from now on."""
        self.suffer(repeat(Fault.BEFORE))

    def return_(self) -> None:
        """All is well, from now on."""
        self.suffer(())

    async def limit(self) -> None:
        """Give the team its limit, as an operator would before the first run."""
        await self.engine.set_team_limits(TEAM, TeamLimits(rollouts=self._limit))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        fault = next(self.faults, Fault.NONE)
        if fault is Fault.BEFORE:
            raise httpx.ConnectError("refused")
        if fault is Fault.LATE:
            self._late.append(request)
            raise httpx.ReadTimeout("slow")
        while self._late:
            await self._deliver(self._late.pop(0))
        if fault is Fault.SHED:
            return _problem(503, "unavailable", "too busy", retryable=True)
        if fault is Fault.FAILED:
            return _problem(500, "internal", "a defect", retryable=False)
        response = await self._deliver(request)
        if fault is Fault.AFTER:
            raise httpx.ReadTimeout("slow")
        return response

    async def _deliver(self, request: httpx.Request) -> httpx.Response:
        target = f"{request.method} {request.url.raw_path.decode()}"
        self.seen.append(target)
        for pattern, handler in ROUTES:
            if (match := re.fullmatch(pattern, target)) is not None:
                ids = [unquote(part) for part in match.groups()]
                try:
                    answer = await handler(self.engine, request.content, *ids)
                except RolloutBudgetError as error:
                    return _problem(error.status, error.code, str(error), retryable=error.retryable)
                return httpx.Response(200, content=answer.model_dump_json())
        return _problem(404, "not-found", target, retryable=False)


def _problem(status: int, code: str, detail: str, *, retryable: bool) -> httpx.Response:
    body = Problem(title="Problem", status=status, detail=detail, code=code, retryable=retryable)
    return httpx.Response(
        status, headers={"content-type": "application/problem+json"}, content=json.dumps(body.model_dump())
    )


Handler = Callable[..., Awaitable[Any]]
ROUTES: list[tuple[str, Handler]] = [
    (r"POST /v1/runs", lambda e, body: e.create_run(TEAM, RunSpec.model_validate_json(body))),
    (r"GET /v1/runs/([^/]+)", lambda e, _, run: e.get_run(TEAM, run)),
    (r"PATCH /v1/runs/([^/]+)", lambda e, body, run: e.patch_run(TEAM, run, RunPatch.model_validate_json(body))),
    (r"POST /v1/runs/([^/]+)/finish", lambda e, _, run: e.finish_run(TEAM, run)),
    (r"POST /v1/runs/([^/]+)/heartbeat", lambda e, _, run: e.heartbeat(TEAM, run)),
    (r"POST /v1/runs/([^/]+)/plan", lambda e, body, run: e.plan(TEAM, run, PlanRequest.model_validate_json(body))),
    (
        r"POST /v1/runs/([^/]+)/groups/open",
        lambda e, body, run: e.open(TEAM, run, OpenRequest.model_validate_json(body)),
    ),
    (
        r"POST /v1/runs/([^/]+)/groups/observe",
        lambda e, body, run: e.observe(TEAM, run, ObserveRequest.model_validate_json(body)),
    ),
    (
        r"POST /v1/runs/([^/]+)/groups/close",
        lambda e, body, run: e.close(TEAM, run, CloseRequest.model_validate_json(body)),
    ),
    (
        r"POST /v1/runs/([^/]+)/baselines",
        lambda e, body, run: e.baselines(TEAM, run, BaselinesRequest.model_validate_json(body)),
    ),
    (r"POST /v1/decide", lambda e, body: e.decide(DecideRequest.model_validate_json(body))),
    (r"GET /v1/budget", lambda e, _: e.budget(TEAM)),
    (r"GET /v1/usage\?by=team", lambda e, _: e.usage(TEAM, ("team",))),
    (r"GET /v1/reservations/(.+)", lambda e, _, reservation: e.reservation(TEAM, reservation)),
]


class House:
    """A service, a client that sends everything once, and the resilient allocator on top, with what it said."""

    def __init__(self, limit: int | None = None, breaker: Breaker | None = None) -> None:
        self.service = Service(limit)
        self.client = AllocatorClient(
            "http://allocator.test", "key", transport=self.service, retries=Retries(attempts=1)
        )
        self.notices: list[Notice] = []
        self.allocator = ResilientAllocator(
            self.client, notify=self.notices.append, breaker=breaker, clock=self.service.clock
        )

    @property
    def said(self) -> list[str]:
        """The kinds of notices, in order."""
        return [notice.kind for notice in self.notices]
