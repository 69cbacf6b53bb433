"""The servers of all cases: prior service, allocator on SQLite, two vLLM servers, each behind a proxy of its own.

Owns starting them, hurting them and mending them; knows nothing of runs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import psutil
import torch

from tests.stages.proxy import OnRequest, StageProxy
from tests.vllm_server import TINY, child_of, export_model
from trainer.config import parse
from trainer.launch import allocator_service, prior_service
from trainer.policy import ensure_policy
from trainer.rollouts.vllm import FINISHED
from trainer.servers import ServerProcess, ServerSpec, VllmOptions, find_vllm, vllm_server

SLOW_S = 0.25
"""How long each answer of a slow server is held back: ten times what it takes."""
PAUSE_S = 3.0
"""How long a stopped process stands still: longer than the pauses between retries."""
WARMUP_STEPS = 150
"""Enough for one right answer in five: outcomes differ, so there is something to learn, and weights change."""


class Machine:
    """One server behind one URL.

    Args:
        spec: how to start it; None is one that somebody else runs.
    """

    def __init__(self, name: str, spec: ServerSpec | None, folder: Path, *, port: int | None = None) -> None:
        self.name = name
        self.proxy = StageProxy()
        self._spec = spec
        self._log = folder / f"{name}.log"
        self._port = port
        self._process: ServerProcess | None = None
        self._family: list[psutil.Process] = []
        self._starting: asyncio.Task[None] | None = None
        self._lives = 0

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self._port is not None

    @property
    def lives(self) -> int:
        """How often it was started."""
        return self._lives

    async def start(self) -> None:
        """Start it, unless it runs; return once it is ready. A start under way is awaited."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        try:
            await asyncio.shield(self._starting)
        finally:
            if self._starting.done():
                self._starting = None

    async def _start(self) -> None:
        if self._port is None:
            assert self._spec is not None, f"{self.name} is not ours to start"
            process = ServerProcess(self._spec, log=self._log)
            await process.__aenter__()
            server = psutil.Process(child_of(process))
            self._process, self._port, self._lives = process, process.port, self._lives + 1
            self._family = [server, *server.children(recursive=True)]
        self.proxy.upstream = self._port

    async def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None, f"{self.name} is not ours to kill"
        for process in self._family:
            process.kill()
        self._port = self.proxy.upstream = None
        await self._process.stop()

    def stop(self) -> None:
        """SIGSTOP."""
        for process in self._family:
            process.suspend()

    def go_on(self) -> None:
        """SIGCONT, and no delay any more; harmless where nothing is stopped."""
        self.proxy.delay_s = 0.0
        if self.is_up:
            for process in self._family:
                process.resume()

    async def close(self) -> None:
        """End it."""
        self.go_on()
        if self._process is not None:
            await self._process.stop()

    async def finished(self) -> int:
        """Return a vLLM server's own count of finished completions since its start."""
        async with httpx.AsyncClient(timeout=60.0) as http:
            text = (await http.get(f"http://127.0.0.1:{self._port}/metrics")).text
        rows = re.findall(r'^vllm:request_success_total\{.*finished_reason="(\w+)".*\} (\S+)$', text, re.MULTILINE)
        return sum(int(float(value)) for reason, value in rows if reason in FINISHED)


class Plant:
    """All servers, and the policy that runs start from."""

    def __init__(self, folder: Path, policy: Path, key_file: Path, machines: Sequence[Machine]) -> None:
        self.folder = folder
        self.policy = policy
        self.key_file = key_file
        self.prior, self.allocator, *self.servers = machines
        self.machines = machines

    def listen(self, heard: OnRequest | None) -> None:
        """Have everyone's requests told; each proxy's with its own machine in mind is the listener's business."""
        for machine in self.machines:
            machine.proxy.heard = _silence if heard is None else heard

    async def mend(self) -> None:
        """Bring everyone up, at full speed."""
        for machine in self.machines:
            machine.go_on()
        await asyncio.gather(*(machine.start() for machine in self.machines))


async def _silence(_stage: str, _answered: bool) -> bool:  # noqa: FBT001 - the shape of `OnRequest`
    return False


@asynccontextmanager
async def planted(folder: Path, *, vllm_port: int | None = None) -> AsyncIterator[Plant]:
    """Start everything, and end it after the block.

    Args:
        folder: for files of all kinds.
        vllm_port: of a vLLM server that takes weights from folders and serves a policy of `TINY`'s shape; it becomes the
            first of the two and is left as it is. Without it both are started here.
    """
    policy = await asyncio.to_thread(_policy, folder)
    build = await find_vllm()
    assert build.python is not None, build.reason
    export = export_model(folder / "models", 0, seed=0)
    vllm = vllm_server(export, build.python, VllmOptions(kv_cache_bytes=64 * 2**20))
    first = Machine("vllm-1", None if vllm_port else vllm, folder, port=vllm_port)
    second = Machine("vllm-2", vllm, folder)
    prior = Machine("prior", prior_service(folder / "prior"), folder)
    async with AsyncExitStack() as stack:
        for machine in (prior, first, second):
            stack.push_async_callback(machine.close)
            await stack.enter_async_context(machine.proxy)
        async with asyncio.TaskGroup() as starts:
            servers = [starts.create_task(machine.start()) for machine in (first, second)]
            await prior.start()
            spec = allocator_service(folder / "allocator", prior.proxy.url, folder / "prior" / "prior.key")
            allocator = Machine("allocator", spec, folder)
            stack.push_async_callback(allocator.close)
            await stack.enter_async_context(allocator.proxy)
            await allocator.start()
        assert all(task.done() for task in servers)
        yield Plant(folder, policy, folder / "allocator" / "team.key", (prior, allocator, first, second))


def _policy(folder: Path) -> Path:
    """Return a policy that is right now and then, made once, on one thread: on busy cores several wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _warmed_up(folder)
    finally:
        torch.set_num_threads(threads)


def _warmed_up(folder: Path) -> Path:
    shape = TINY.model_dump() | {"warmup_steps": WARMUP_STEPS}
    return ensure_policy(
        parse(
            {
                "run": {"cache_dir": str(folder / "cache")},
                "policy": {"demo": shape},
                "task": {"arithmetic": {"levels": [1], "size": 40, "held_out_size": 4}},
            }
        )
    )
