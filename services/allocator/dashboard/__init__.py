"""The allocator's own page, `GET /dashboard`: live budgets, runs and decisions, for people without Grafana.

Read-only, rendered here, from the ledger's own figures; no build step, no external asset, no part of the REST contract.
Who sees what is a key's: a team its own, an admin all. A browser holds a signed cookie, never the key (`sessions`).
`reading` and `spending` own the statements, `views` turns what was read into words and shapes, `routes` answers.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute

from services.allocator.dashboard.routes import router
from services.allocator.dashboard.visitors import PAGES, State

__all__ = ["PAGES", "install", "methods"]


def install(app: FastAPI) -> None:
    """Add the page's routes, which the OpenAPI document does not show."""
    app.state.dashboard = State()
    app.include_router(router)


def methods(path: str) -> list[str]:
    """Return the methods of one of the page's paths; none of any other path."""
    own = [route for route in router.routes if isinstance(route, APIRoute) and route.path == path]
    return sorted({method for route in own for method in route.methods or ()})
