"""The application: routes, errors, metrics and the life of the service behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry

from rollout_budget.engine.ports import PriorSource
from services.allocator import dashboard
from services.allocator.auth import Entrance
from services.allocator.endpoints import admin, budgets, changes, examples, listing, runs, usage
from services.allocator.metrics import Metrics
from services.allocator.service import Service
from services.allocator.settings import Settings
from services.kit import bodies, edge, http, problems, segments
from services.kit.app import Application

VERSION = "1.0.0"
"""Of the interface, not of the package."""
DESCRIPTION = """Groups, decisions and the ledger of rollouts. Every list is a batch: a training step is one call.

All POSTs are safe to repeat with the same ids and the same body. A spent budget is not an error: the answer grants 0
with reason `budget_exhausted`, and baselines are formed from what was drawn."""


async def _not_allowed(request: Request, _error: Exception) -> Response:
    """Answer 405 with every method that the path has, not only those of the route that was found first."""
    path = getattr(request.scope.get("route"), "path_format", "")
    methods = sorted(method.upper() for method in request.app.openapi()["paths"].get(path, {}))
    methods = methods or dashboard.methods(path)
    answer = problems.response(405, "the path has other methods", code="method-not-allowed")
    answer.headers["Allow"] = ", ".join(methods) or "GET"
    return answer


def create_app(settings: Settings, *, priors: PriorSource | None = None) -> FastAPI:
    """Return the application; it opens the database when it starts (ASGI lifespan).

    Args:
        settings: see `Settings`.
        priors: where priors come from, in place of what the settings name.
    """
    metrics = Metrics(CollectorRegistry())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service(settings, metrics, priors)
        async with app.state.service.running():
            yield

    async def missing() -> str | None:
        service: Service | None = getattr(app.state, "service", None)
        return "the service has not started" if service is None else await service.missing()

    app = Application(
        title="rollout-budget allocator",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
        examples=examples.schemas(),
    )
    for router in (runs.router, listing.router, budgets.router, usage.router, changes.router, admin.router):
        app.include_router(router)
    dashboard.install(app)
    problems.install(app)
    app.add_exception_handler(405, _not_allowed)
    edge.install(app, limits=settings.admission, visitors=Entrance(), registry=metrics.registry, pages=dashboard.PAGES)
    bodies.install(app, max_body_bytes=settings.max_body_bytes)
    http.install(app, registry=metrics.registry, ready=missing, lines=settings.logs_requests)
    segments.install(app)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
