"""Applications on real SQLite files, in process, with a known encoder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.prior_api.app import create_app
from services.prior_api.settings import Settings
from tests.postgres import postgres_url
from tests.prior_api.fakes import FakeEncoder

__all__ = ["postgres_url"]

TEAM_A, TEAM_B, SERVICE = "key-of-team-a-0123456789", "key-of-team-b-0123456789", "key-of-service-0123456789"

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def encoder() -> FakeEncoder:
    """The encoder behind `client`."""
    return FakeEncoder()


@pytest.fixture
def serve(tmp_path: Path, encoder: FakeEncoder) -> Serve:
    """Return a context manager that runs an application on the same database file each time."""

    @asynccontextmanager
    async def run(**changes: Any) -> AsyncIterator[httpx.AsyncClient]:
        settings = Settings(
            **{
                "data": tmp_path,
                "device": "cpu",
                "keys": {"a": TEAM_A, "b": TEAM_B},
                "service_keys": [SERVICE],
                "refit_interval_s": 0.0,
                "refit_wait_s": 30.0,
                "encode_wait_s": 10.0,
                **changes,
            }
        )
        app = create_app(settings, encoder=encoder)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {TEAM_A}"}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://prior", headers=headers) as client,
        ):
            yield client

    return run


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    """A client of team a."""
    async with serve() as client:
        yield client
