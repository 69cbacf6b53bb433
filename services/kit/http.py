"""Every request's name, count, line in the log and span, and the operational routes.

`/livez` says that the process runs and touches nothing else; `/readyz` asks the service, until it is about to stop
(`app.state.draining`, see `serve`); `/metrics` is Prometheus's.

A request keeps the `X-Request-Id` it came with, if that is one (`REQUEST_ID`), and gets one otherwise; the answer bears
it whatever it is, problem+json in a member too, and so does what this service asks of others meanwhile. Labels and lines
name route templates and statuses only; a path that matches no route is `unmatched`, never itself. An error that nobody
expected ends here: it is logged under the request's id and answered 500.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rollout_budget.client import requests
from rollout_budget.client.requests import HEADER
from rollout_budget.wire import Health
from services.kit import logs, problems, tracing

Readiness = Callable[[], Awaitable[str | None]]
"""Returns None when ready, otherwise what is missing."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods with a label of their own: a client may send any word as one."""
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From a cached lookup to the longest wait that a client's default deadline allows."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
"""Ids that are kept: a UUID with room. No blank and no line end can come into a log by one."""
QUIET = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
"""Routes that are asked every few seconds, whose lines and spans would hide all others."""

_log = structlog.get_logger(__name__)


class Requests:
    """ASGI middleware that names requests, counts them and their seconds, and writes a line of each if asked to."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, *, lines: bool) -> None:
        self._app = app
        self._lines = lines
        labels = ("method", "route", "status")
        self._requests = Counter("rollout_budget_http_requests", "HTTP requests.", labels, registry=registry)
        self._seconds = Histogram(
            "rollout_budget_http_request_duration_seconds",
            "Time from the first byte of a request to the last of its answer.",
            ("method", "route"),
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and record how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        with requests.named(_accepted(headers.get(HEADER, ""))) as request:
            if scope["path"] in QUIET:
                await self._counted(scope, receive, send, request.id)
                return
            with logs.of_request() as known, tracing.serving(scope["method"], headers, request.id) as span:
                began = time.perf_counter()
                method, route, status = await self._counted(scope, receive, send, request.id)
                if self._lines:
                    ms = round((time.perf_counter() - began) * 1e3, 2)
                    _log.info("request", method=method, route=route, status=status, ms=ms, **known)
                tracing.answered(span, method, route, status, known)

    async def _counted(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> tuple[str, str, int]:
        """Serve and count one request; return its method and route, as labels, and the status of its answer."""
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        began = time.perf_counter()
        method, route = "other", "unmatched"
        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            if status:  # too late for another answer: the server closes the connection
                raise
            await problems.unexpected(_template(scope), error)(scope, receive, watch)
        finally:
            route = _template(scope)
            if route != "unmatched" and scope["method"] in METHODS:
                method = scope["method"]
            self._requests.labels(method, route, str(status or 500)).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - began)
        return method, route, status


def _accepted(request_id: str) -> str:
    """Return an id as it came, or a fresh one in place of what is none."""
    return request_id if REQUEST_ID.fullmatch(request_id) else requests.new_id()


def _template(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "unmatched"))


def install(app: FastAPI, *, registry: CollectorRegistry, ready: Readiness, lines: bool = False) -> None:
    """Add the middleware and the operational routes, which need no key; with `lines`, log one line per request."""
    app.add_middleware(Requests, registry=registry, lines=lines)

    async def livez() -> Health:
        """Say that the process runs; asks nothing else, so restart it when this fails."""
        return Health(status="ok")

    async def readyz(response: Response) -> Health:
        """Say whether requests should be sent here: what the service needs is there, and it is not about to stop."""
        draining = getattr(app.state, "draining", False)
        missing = "the service is stopping" if draining else await ready()
        if missing is None:
            return Health(status="ok")
        response.status_code = 503
        return Health(status="unavailable", detail=missing)

    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    unready: dict[int | str, dict[str, Any]] = {
        503: {"model": Health, "description": "Not ready; `detail` says what is missing."}
    }
    app.add_api_route("/livez", livez, tags=["operations"], operation_id="livez")
    app.add_api_route("/healthz", livez, tags=["operations"], operation_id="healthz", summary="Livez by another name")
    app.add_api_route("/readyz", readyz, tags=["operations"], operation_id="readyz", responses=unready)
    app.add_api_route("/metrics", metrics, include_in_schema=False)
