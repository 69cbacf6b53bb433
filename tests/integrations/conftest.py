"""Real services for trainers in other environments: the prior service and an allocator on it, as processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vllm_server import child_of
from trainer.launch import allocator_service, prior_service
from trainer.servers import ServerProcess


@dataclass(frozen=True, slots=True)
class Service:
    """A running allocator in embedded mode."""

    url: str
    key: str
    data: Path
    process: ServerProcess

    @property
    def rules(self) -> dict[str, str]:
        """Where it is, as `rb.Session` takes it."""
        return {"url": self.url, "key": self.key}

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(child_of(self.process), signal.SIGKILL)


class Services:
    """Starts allocators, all on one prior service, which the first starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._prior: ServerProcess | None = None
        self._count = 0

    def start(self) -> Service:
        """Return a new allocator, ready."""
        return self._runner.run(self._start())

    def close(self) -> None:
        """End all."""
        self._runner.run(self._stack.aclose())
        self._runner.close()

    async def _start(self) -> Service:
        prior = self._folder / "prior"
        if self._prior is None:
            process = ServerProcess(prior_service(prior), log=self._folder / "prior.log")
            self._prior = await self._stack.enter_async_context(process)
        self._count += 1
        data = self._folder / f"allocator-{self._count}"
        spec = allocator_service(data, self._prior.url, prior / "prior.key")
        allocator = await self._stack.enter_async_context(ServerProcess(spec, log=data.with_suffix(".log")))
        return Service(allocator.url, (data / "team.key").read_text().strip(), data, allocator)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """For tests that end an allocator."""
    started = Services(tmp_path_factory.mktemp("services"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def service(services: Services) -> Service:
    """An allocator that the tests of this folder share; each has a run of its own."""
    return services.start()
