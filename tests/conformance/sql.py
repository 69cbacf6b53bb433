"""The allocator service's store on SQLite and PostgreSQL, and the whole protocol over HTTP, in the registry."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from rollout_budget.client import AllocatorClient, ResilientAllocator, Retries
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
from tests.conformance.implementations import ALLOCATORS, STORES, AllocatorFactory, World, local_allocator


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
async def _service(url: str, folder: Path, world: World) -> AsyncIterator[tuple[FastAPI, str]]:
    """Run a service with the test's time and priors; yield it with a key of a team that has the test's limits."""
    settings = Settings.model_validate({"data": folder, "database_url": url, "deliver_every_s": 3600})
    app = create_app(settings, priors=world.priors)
    async with app.router.lifespan_context(app):
        service: Service = app.state.service
        service.store.clock_offset_s = lambda: world.clock.elapsed_s
        async with service.directory() as directory:
            await directory.add_team(TeamCreate(team="team", limits=world.limits))
            token = (await directory.create_key(KeyCreate(team="team"), "conformance")).token
        yield app, token


@asynccontextmanager
async def _client(
    app: FastAPI, token: str, url: str, transport: httpx.AsyncBaseTransport | None
) -> AsyncIterator[Delivering]:
    async with Delivering(url, token, transport=transport, retries=Retries(attempts=1)) as client:
        client.service = app.state.service
        yield client


@asynccontextmanager
async def _over_asgi(url: str, folder: Path, world: World) -> AsyncIterator[Delivering]:
    async with (
        _service(url, folder, world) as (app, token),
        _client(app, token, "http://allocator", httpx.ASGITransport(app=app)) as client,
    ):
        yield client


@asynccontextmanager
async def _over_socket(url: str, folder: Path, world: World) -> AsyncIterator[Delivering]:
    async with (
        _service(url, folder, world) as (app, token),
        listening(app) as address,
        _client(app, token, address, None) as client,
    ):
        yield client


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    """Serve an application that has started on a real socket of this event loop; yield its address."""
    config = uvicorn.Config(app, port=0, log_level="critical", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        serving = asyncio.create_task(server._serve([bound]))
        while not server.started:  # noqa: ASYNC110  uvicorn tells of it in no other way
            await asyncio.sleep(0)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        await serving


def _resilient(client: Allocator) -> Allocator:
    """The client that trainers use; while the service is there it must behave as if it were not."""
    return ResilientAllocator(client)


def _registered(
    way: Callable[[str, Path, World], AbstractAsyncContextManager[Allocator]],
    database: Callable[[Path], str],
    wrapped: Callable[[Allocator], Allocator] = lambda client: client,
) -> AllocatorFactory:
    @asynccontextmanager
    async def factory(world: World) -> AsyncIterator[Allocator]:
        with tempfile.TemporaryDirectory() as folder:
            async with way(database(Path(folder)), Path(folder), world) as allocator:
                yield wrapped(allocator)

    return factory


def _postgres(_folder: Path) -> str:
    return fresh_postgres()


@asynccontextmanager
async def resilient_local(world: World) -> AsyncIterator[Allocator]:
    async with local_allocator(world) as allocator:
        yield _resilient(allocator)


STORES |= {"sqlite": sqlite_store, "postgres": postgres_store}
ALLOCATORS |= {
    "http-sqlite": _registered(_over_asgi, fresh_sqlite),
    "http-postgres": _registered(_over_asgi, _postgres),
    "socket-sqlite": _registered(_over_socket, fresh_sqlite),
    "socket-postgres": _registered(_over_socket, _postgres),
    "resilient-local": resilient_local,
    "resilient-socket-sqlite": _registered(_over_socket, fresh_sqlite, _resilient),
    "resilient-socket-postgres": _registered(_over_socket, _postgres, _resilient),
}
"""Over HTTP both within the process, where an error of the service shows its traceback, and on a real socket."""
