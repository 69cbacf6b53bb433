"""A real allocator behind a network that loses things: the engine on its in-memory ledger, spoken to over HTTP.

Owns the faults of the way there and back (`routing` leads to the engine). The clock is the test's, for leases and for
the client's breaker alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import repeat

import httpx

from rollout_budget.client import AllocatorClient, Breaker, Notice, ResilientAllocator, Retries
from rollout_budget.engine import Engine, HistoryPrior, MemoryStore
from rollout_budget.wire import TeamLimits
from tests.client.routing import problem, respond, target

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
            return problem(503, "unavailable", "too busy", retryable=True)
        if fault is Fault.FAILED:
            return problem(500, "internal", "a defect", retryable=False)
        response = await self._deliver(request)
        if fault is Fault.AFTER:
            raise httpx.ReadTimeout("slow")
        return response

    async def _deliver(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(target(request))
        return await respond(self.engine, TEAM, request)


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
