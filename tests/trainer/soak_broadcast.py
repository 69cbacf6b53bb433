"""`python -m tests.trainer.soak_broadcast`: two real vLLM servers take weights over Gloo while they are killed and stopped.

Some two minutes and 4 GB, so it is no part of the test suite. Asserts that nothing takes longer than its bound, that the
other server goes on, that whoever was away catches up, and that every token has its version's log-probability.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from tests.trainer.policies import check_all
from tests.vllm_server import child_of, export_model
from trainer.rollouts.pool import Patience, ServerPool
from trainer.rollouts.vllm import VllmServer
from trainer.servers import ServerProcess, VllmOptions, find_vllm, vllm_server
from trainer.types import Sample, Sampling
from trainer.weights.broadcast import BroadcastPublisher
from trainer.weights.gloo import GlooTransport
from trainer.weights.transport import Named

BOUND_S = 60.0
"""Of any single update here: far above a health look of 30 s, far below a run that hangs."""
STOPPED_S = 15.0
KILL_AT = 5
"""Tensors sent before the kill."""
Drawn = list[tuple[Sequence[int], Sample]]


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Treacherous(GlooTransport):
    """Kills a server in the middle of a transfer, once it is told which."""

    victim: ServerProcess | None = None

    def send(self, tensors: Iterator[Named]) -> None:
        super().send(self._drip(tensors))

    def _drip(self, tensors: Iterator[Named]) -> Iterator[Named]:
        for place, named in enumerate(tensors):
            if place == KILL_AT and (victim := Treacherous.victim) is not None:
                Treacherous.victim = None
                os.kill(child_of(victim), signal.SIGKILL)
            yield named


class Scene:
    """Two servers, their pool and publisher, and all versions so far."""

    def __init__(self, folder: Path, servers: Sequence[ServerProcess]) -> None:
        self._folder = folder
        self.pool = ServerPool(
            [VllmServer(server.url, run="soak") for server in servers], Patience(look_s=0.5), continues=True
        )
        self._publisher = BroadcastPublisher(self.pool, partial(Treacherous, "127.0.0.1"), keep=99)
        self._folders: dict[int, Path] = {}

    @property
    def version(self) -> int:
        return max(self._folders)

    async def publish(self, what: str, *, in_service: int) -> None:
        version = len(self._folders) + 1
        self._folders[version] = export_model(self._folder, version, 100 + version)
        began = time.monotonic()
        await self._publisher.publish(self._folders[version], version)
        seconds = time.monotonic() - began
        say(f"{what:48} {seconds:6.2f} s, {self.pool.in_service} in service")
        assert seconds < BOUND_S
        assert self.pool.in_service == in_service

    async def draw(self, version: int, *, prompts: int = 12, tokens: int = 20) -> None:
        """Draw, and hold every token against the model of its version."""
        answers = await asyncio.gather(
            *(
                self.pool.generate((2, 10 + place, 20), count=4, sampling=Sampling(tokens), version=version, seed=place)
                for place in range(prompts)
            )
        )
        drawn: Drawn = [((2, 10 + place, 20), sample) for place, own in enumerate(answers) for sample in own]
        assert len(drawn) == 4 * prompts
        check_all(self._folders, drawn)

    async def until_all_serve(self) -> None:
        began = time.monotonic()
        while self.pool.in_service < len(self.pool.servers):  # noqa: ASYNC110 - a recovery has no signal of its own
            await asyncio.sleep(0.1)
        say(f"{'caught up after':48} {time.monotonic() - began:6.2f} s")

    async def close(self) -> None:
        await self.pool.close()
        await self._publisher.close()


async def play(folder: Path) -> None:
    """Run the whole scene."""
    build = await find_vllm()
    assert build.python is not None, build.reason
    options = VllmOptions(kv_cache_bytes=64 * 2**20, backend="gloo")
    spec = vllm_server(export_model(folder, 0, seed=0), build.python, options)
    steady, doomed = (ServerProcess(spec, log=folder / f"{name}.log") for name in ("steady", "doomed"))
    async with steady:
        async with doomed:
            scene = Scene(folder, [steady, doomed])
            await scene.publish("a first update: a group of three", in_service=2)
            await scene.publish("a second update: the group is there", in_service=2)
            await scene.draw(2)
            Treacherous.victim = doomed
            await scene.publish("one server killed in the middle", in_service=1)
            await scene.draw(3)
            await scene.publish("without it", in_service=1)
        async with ServerProcess(spec, log=folder / "back.log", port=doomed.port):
            await scene.until_all_serve()
            await scene.draw(4, prompts=24)
            await scene.publish("both again: a new group", in_service=2)
            drawing = asyncio.create_task(scene.draw(5, prompts=30, tokens=200))
            await asyncio.sleep(0)
            os.kill(child_of(steady), signal.SIGSTOP)
            asyncio.get_running_loop().call_later(STOPPED_S, os.kill, child_of(steady), signal.SIGCONT)
            await scene.publish(f"one server stopped for {STOPPED_S:.0f} s, rollouts under way", in_service=2)
            await drawing
            await scene.draw(6)
            say(str(scene.pool.counts))
            await scene.close()


def main() -> int:
    """Run it in a folder that goes afterwards."""
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)  # more than one beside two busy servers spin and wait for each other
    with tempfile.TemporaryDirectory(prefix="soak-broadcast-") as folder:
        asyncio.run(play(Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
