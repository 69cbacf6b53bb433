"""The allocator service's store on SQLite and PostgreSQL, and the whole protocol over HTTP, in the registry."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from rollout_budget.client import AllocatorClient, Retries
from rollout_budget.client.base import Allocator
from rollout_budget.engine.ports import Store
from rollout_budget.wire import CloseAnswer, CloseRequest, KeyCreate, TeamCreate
from services.allocator.app import create_app
from services.allocator.database.store import SqlStore
from services.allocator.service import Service
from services.allocator.settings import Settings
from services.kit.database import connect
from services.kit.session import Database
from tests.allocator.databases import fresh_postgres, fresh_sqlite
from tests.conformance.implementations import ALLOCATORS, STORES, World


class Delivering(AllocatorClient):
    """A client that waits after each close for what the service does in the background: evidence goes to its source."""

    service: Service

    async def close(self, run_id: str, request: CloseRequest) -> CloseAnswer:
        answer = await super().close(run_id, request)
        await self.service.engine.deliver_evidence()
        return answer


@asynccontextmanager
async def _store(url: str, world: World) -> AsyncIterator[Store]:
    engine = connect(url)
    yield SqlStore(Database(engine), clock_offset_s=lambda: world.clock.elapsed_s)
    await engine.dispose()


@asynccontextmanager
async def sqlite_store(world: World) -> AsyncIterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        async with _store(fresh_sqlite(Path(folder)), world) as store:
            yield store


@asynccontextmanager
async def postgres_store(world: World) -> AsyncIterator[Store]:
    async with _store(fresh_postgres(), world) as store:
        yield store


@asynccontextmanager
async def _over_http(url: str, folder: Path, world: World) -> AsyncIterator[Allocator]:
    settings = Settings.model_validate({"data": folder, "database_url": url, "deliver_every_s": 3600})
    app = create_app(settings, priors=world.priors)
    async with app.router.lifespan_context(app):
        service: Service = app.state.service
        service.store.clock_offset_s = lambda: world.clock.elapsed_s
        async with service.directory() as directory:
            await directory.add_team(TeamCreate(team="team", limits=world.limits))
            token = (await directory.create_key(KeyCreate(team="team"), "conformance")).token
        transport = httpx.ASGITransport(app=app)
        async with Delivering("http://allocator", token, transport=transport, retries=Retries(attempts=1)) as client:
            client.service = service
            yield client


@asynccontextmanager
async def sqlite_http(world: World) -> AsyncIterator[Allocator]:
    with tempfile.TemporaryDirectory() as folder:
        async with _over_http(fresh_sqlite(Path(folder)), Path(folder), world) as allocator:
            yield allocator


@asynccontextmanager
async def postgres_http(world: World) -> AsyncIterator[Allocator]:
    with tempfile.TemporaryDirectory() as folder:
        async with _over_http(fresh_postgres(), Path(folder), world) as allocator:
            yield allocator


STORES |= {"sqlite": sqlite_store, "postgres": postgres_store}
ALLOCATORS |= {"http-sqlite": sqlite_http, "http-postgres": postgres_http}
