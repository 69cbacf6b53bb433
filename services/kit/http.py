"""HTTP metrics and the operational routes: `/livez`, `/readyz`, `/healthz`, `/metrics`.

Labels are route templates and statuses only; a path that matches no route is counted as `unmatched`, never by itself.
`/livez` says that the process runs and touches nothing else; `/readyz` asks the service, until it is about to stop
(`app.state.draining`, see `serve`).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rollout_budget.wire import Health

Readiness = Callable[[], Awaitable[str | None]]
"""Returns None when ready, otherwise what is missing."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods with a label of their own: a client may send any word as one."""
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From a cached lookup to the longest wait that a client's default deadline allows."""


class HttpMetrics:
    """ASGI middleware that counts requests and their seconds by method, route template and status."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
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
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            known = route != "unmatched" and scope["method"] in METHODS
            method = scope["method"] if known else "other"
            self._requests.labels(method, route, str(status)).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - began)


def install(app: FastAPI, *, registry: CollectorRegistry, ready: Readiness) -> None:
    """Add the middleware and the operational routes, which need no key."""
    app.add_middleware(HttpMetrics, registry=registry)

    async def livez() -> Health:
        return Health(status="ok")

    async def readyz(response: Response) -> Health:
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
    app.add_api_route("/healthz", livez, tags=["operations"], operation_id="healthz")
    app.add_api_route("/readyz", readyz, tags=["operations"], operation_id="readyz", responses=unready)
    app.add_api_route("/metrics", metrics, include_in_schema=False)
