"""The edge of a service: admission before a body is read or parsed (G13, G17). The rules are `admission`'s.

Everything under `/v1/` passes, and pages for people where a service has some (`Pages`); health, metrics and the document
never wait and are never turned away. A request is let
in by its key alone: one whose key nobody knows is refused here, so nobody without a key has a body read. Owns the clock,
the futures of those who wait, and the metrics.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rollout_budget.errors import RolloutBudgetError
from services.kit import logs, problems, saturation
from services.kit.admission import Gate, Limited, Limits, Ticket

PREFIX = "/v1/"
"""Paths that are admitted, beside those of `Pages`; all others are operational and cheap."""
BODY_TIMEOUT_S = 30.0
"""Longest time from a request's start to the end of its body: 64 MiB at 18 Mbit/s."""
BODY_PATIENCE_S = 0.5
"""Time in which a request holds its units while its body comes; what comes later comes without them."""
MAX_TEAMS = 200
"""Teams with labels of their own; all further ones share `other`."""
WAIT_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

_admitted: ContextVar[tuple[Edge, Ticket] | None] = ContextVar("admitted", default=None)


class Visitors(Protocol):
    """Who is asking, by the key in the headers."""

    def recall(self, app: Any, headers: Headers) -> str | None:
        """Return the team of a key that was good a while ago, None of any other. Asks nobody."""
        ...

    async def identify(self, app: Any, headers: Headers) -> str:
        """Return the team of a key.

        Raises:
            Unauthorized: it is unknown, expired or revoked.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages for people, who show no Bearer key but something of the pages' own.

    Whoever shows nothing good yet is let in at the rate of strangers, to be told where to sign in: such requests have
    to be cheap, and to bound their bodies themselves.

    Attributes:
        prefix: beginning of their paths.
        recall: returns the team that a request's headers stand for, None of a stranger; asks nobody.
    """

    prefix: str
    recall: Callable[[Any, Headers], str | None]


@asynccontextmanager
async def outside() -> AsyncIterator[None]:
    """Wait for another service in this block, and let others work meanwhile. Does nothing beside a request."""
    admitted = _admitted.get()
    if admitted is None:
        yield
        return
    edge, ticket = admitted
    stepped = edge.step_out(ticket)
    try:
        yield
    finally:
        if stepped:
            edge.step_in(ticket)


class Counts:
    """Metrics of the edge; series are bounded whatever is sent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._known: set[str] = set()
        turned = "Requests turned away at the edge: limited (429), shed (503)."
        self._turned = Counter("rollout_budget_requests_turned_away", turned, ("team", "answer"), registry=registry)
        self.strangers = Counter(
            "rollout_budget_unknown_keys", "Requests without a known key, by what became of them.", ("answer",),
            registry=registry,
        )  # fmt: skip
        self.queue = Gauge("rollout_budget_queue_requests", "Requests that wait to be admitted.", registry=registry)
        self.units = Gauge("rollout_budget_admitted_units", "Units of work that are admitted now.", registry=registry)
        self.wait = Histogram(
            "rollout_budget_queue_wait_seconds", "Wait of requests that were admitted.", registry=registry,
            buckets=WAIT_BUCKETS_S,
        )  # fmt: skip

    def turned_away(self, team: str, answer: str) -> None:
        """Count a request that was not admitted."""
        if team not in self._known and len(self._known) < MAX_TEAMS:
            self._known.add(team)
        self._turned.labels(team if team in self._known else "other", answer).inc()


class Edge:
    """ASGI middleware around everything that reads bodies."""

    def __init__(
        self, app: ASGIApp, limits: Limits, visitors: Visitors, registry: CollectorRegistry, pages: Pages | None = None
    ) -> None:
        self._app = app
        self._pages = pages
        self._gate = Gate(limits, time.monotonic())
        self._visitors = visitors
        self._counts = Counts(registry)
        self._waiting: dict[Ticket, asyncio.Future[bool]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit a request, or answer it here."""
        pages = self._pages_of(scope)
        if pages is None and not (scope["type"] == "http" and scope["path"].startswith(PREFIX)):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        recall = pages.recall if pages else self._visitors.recall
        team = recall(scope["app"], headers)
        if team is None and pages:
            await (self._unknown("page") or self._app)(scope, receive, send)
            return
        if team is None:
            refused = await self._stranger(scope, headers)
            if isinstance(refused, Response):
                await refused(scope, receive, send)
                return
            team = refused
        logs.about(team=team)
        admitted = await self._admit(team, _declared(headers))
        if isinstance(admitted, Response):
            await admitted(scope, receive, send)
            return
        logs.about(units=admitted.units)
        token = _admitted.set((self, admitted))
        try:
            await self._app(scope, self._reading(receive, headers, admitted), send)
        finally:
            _admitted.reset(token)
            self._woken(self._gate.leave(admitted))

    def step_out(self, ticket: Ticket) -> bool:
        """Give up a ticket's units while it waits for somebody else; False if it has to keep them."""
        started = self._gate.step_out(ticket)
        self._woken(started or [])
        return started is not None

    def step_in(self, ticket: Ticket) -> None:
        """Take a ticket's units back."""
        self._gate.step_in(ticket)
        self._woken([])

    def _pages_of(self, scope: Scope) -> Pages | None:
        """Return the pages that a request is for, if it is for one."""
        pages = self._pages
        return pages if pages and scope["type"] == "http" and scope["path"].startswith(pages.prefix) else None

    def _unknown(self, answer: str = "") -> Response | None:
        """Charge a request that shows no known key; return the refusal if too many came, count it as `answer` if not."""
        limited = self._gate.stranger(time.monotonic())
        if limited is not None:
            self._counts.strangers.labels("limited").inc()
            return _too_many(limited, "of keys that this process has not seen yet")
        if answer:
            self._counts.strangers.labels(answer).inc()
        return None

    async def _stranger(self, scope: Scope, headers: Headers) -> str | Response:
        """Look a key up, unless too many unknown ones came; return its team, or the refusal."""
        refused = self._unknown()
        if refused is not None:
            return refused
        try:
            team = await self._visitors.identify(scope["app"], headers)
        except RolloutBudgetError as error:
            self._counts.strangers.labels("refused").inc()
            return problems.response(error.status, str(error), code=error.code, retryable=error.retryable)
        self._counts.strangers.labels("found").inc()
        return team

    async def _admit(self, team: str, size: int | None) -> Ticket | Response:
        began = time.monotonic()
        ticket, shed = self._gate.arrive(team, size, began)
        if isinstance(ticket, Limited):
            self._counts.turned_away(team, "limited")
            return _too_many(ticket, "of this team")
        self._woken(shed)
        if ticket.state == "waiting":
            await self._wait(ticket)
        if ticket.state == "shed":
            self._counts.turned_away(team, "shed")
            detail = "too many requests wait already; nothing was read or stored"
            return problems.response(HTTPStatus.SERVICE_UNAVAILABLE, detail, code="unavailable", retryable=True)
        self._counts.wait.observe(time.monotonic() - began)
        return ticket

    async def _wait(self, ticket: Ticket) -> None:
        """Wait until a ticket is no longer in line: it works, or it was shed."""
        future = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        timer = asyncio.get_running_loop().call_later(self._gate.limits.wait_s, self._too_late, ticket)
        try:
            await future
        except asyncio.CancelledError:
            self._woken(self._gate.leave(ticket) if ticket.state == "working" else self._gone(ticket))
            raise
        finally:
            timer.cancel()
            self._waiting.pop(ticket, None)

    def _too_late(self, ticket: Ticket) -> None:
        self._woken([*self._gone(ticket), ticket])

    def _gone(self, ticket: Ticket) -> list[Ticket]:
        return self._gate.give_up(ticket) if ticket.state == "waiting" else []

    def _woken(self, tickets: Iterable[Ticket]) -> None:
        """Tell those whose wait is over, and set the gauges."""
        for ticket in tickets:
            future = self._waiting.get(ticket)
            if future is not None and not future.done():
                future.set_result(True)
        self._counts.queue.set(self._gate.waiting)
        self._counts.units.set(self._gate.units)

    def _reading(self, receive: Receive, headers: Headers, ticket: Ticket) -> Receive:
        """Return what reads a body: in bounded time, and with its bytes charged where they were not declared."""
        undeclared = _declared(headers) is None
        began = time.monotonic()
        ends, patient_until = began + BODY_TIMEOUT_S, began + BODY_PATIENCE_S
        whole = False

        async def read() -> Message:
            nonlocal whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(ends - time.monotonic()):
                    message = await self._part(receive, ticket, patient_until - time.monotonic())
            except TimeoutError:
                detail = f"the body did not arrive within {BODY_TIMEOUT_S:g} s"
                raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, detail) from None
            whole = not message.get("more_body", False)
            if undeclared:
                self._gate.charge(ticket.team, len(message.get("body", b"")), time.monotonic())
            return message

        return read

    async def _part(self, receive: Receive, ticket: Ticket, patience_s: float) -> Message:
        """Wait for a part of a body; for what comes slowly without the ticket's units, so that nobody holds them idle."""
        coming = asyncio.ensure_future(receive())
        try:
            arrived, _ = await asyncio.wait({coming}, timeout=max(patience_s, 0.0))
            if arrived:
                return coming.result()
            stepped = self.step_out(ticket)
            try:
                return await coming
            finally:
                if stepped:
                    self.step_in(ticket)
        finally:
            coming.cancel()


def bearer(headers: Headers) -> str:
    """Return the Bearer token of a request, empty without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def install(
    app: FastAPI, *, limits: Limits, visitors: Visitors, registry: CollectorRegistry, pages: Pages | None = None
) -> None:
    """Admit this application's requests, and show how full the process is; what is installed later lies further out."""
    saturation.install(registry, limits)
    app.add_middleware(Edge, limits=limits, visitors=visitors, registry=registry, pages=pages)


def _declared(headers: Headers) -> int | None:
    """Return the bytes of a body: 0 where there is none, None where it comes in chunks."""
    declared = headers.get("content-length", "")
    if declared.isdecimal():
        return int(declared)
    return None if "transfer-encoding" in headers else 0


def _too_many(limited: Limited, whose: str) -> Response:
    after_s = max(1, math.ceil(limited.after_s))
    detail = f"too many requests {whose}: come back in {after_s} s"
    answer = problems.response(HTTPStatus.TOO_MANY_REQUESTS, detail, code="rate-limited", retryable=True)
    answer.headers["Retry-After"] = str(after_s)
    return answer
