"""Every way to bring weights to a real vLLM server: adapters, broadcasts, and folders while completions are under way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import torch

from tests.trainer.policies import TOLERANCE, check_all, export_adapter, largest_difference
from tests.vllm_server import export_model
from trainer.policy import load_tokenizer
from trainer.rollouts.pool import Patience, ServerPool
from trainer.rollouts.vllm import ServerUnusable, VllmServer
from trainer.servers import ServerProcess
from trainer.types import Sample, Sampling
from trainer.weights.adapters import AdapterPublisher
from trainer.weights.broadcast import BroadcastPublisher
from trainer.weights.filesystem import FilesystemPublisher
from trainer.weights.gloo import GlooTransport

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

PROMPTS = [(2, 10 + place, 20, 30) for place in range(6)]
SHORT, LONG = Sampling(max_tokens=8), Sampling(max_tokens=300)
Drawn = list[tuple[Sequence[int], Sample]]


@asynccontextmanager
async def pool_of(url: str, run: str, *, adapters: bool = False, continues: bool = False) -> AsyncIterator[ServerPool]:
    pool = ServerPool(
        [VllmServer(url, run=run, adapters=adapters)], Patience(look_s=0.1, pause_s=0.05), continues=continues
    )
    try:
        yield pool
    finally:
        await pool.close()


async def draw(pool: ServerPool, version: int, sampling: Sampling = SHORT, count: int = 4) -> Drawn:
    answers = await asyncio.gather(
        *(
            pool.generate(prompt, count=count, sampling=sampling, version=version, seed=place)
            for place, prompt in enumerate(PROMPTS)
        )
    )
    return [(prompt, sample) for prompt, samples in zip(PROMPTS, answers, strict=True) for sample in samples]


class Meter:
    """The server's own metrics."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def read(self, name: str) -> float:
        text = (await self._client.get("/metrics")).text
        return sum(float(value) for value in re.findall(rf"^vllm:{name}\{{.*\}} (\S+)$", text, re.MULTILINE))

    async def until_sampled(self, more: float) -> None:
        """Wait until so many more tokens have been sampled."""
        goal = await self.read("generation_tokens_total") + more
        while await self.read("generation_tokens_total") < goal:
            pass  # each look is a request


class Rollouts:
    """Draws groups without a pause, as asynchronous training does, until it is told to stop."""

    def __init__(self, pool: ServerPool, version: int) -> None:
        self._pool = pool
        self._version = version
        self._stop = asyncio.Event()
        self._workers = [asyncio.create_task(self._work(place)) for place in range(len(PROMPTS))]

    async def _work(self, place: int) -> Drawn:
        drawn: Drawn = []
        while not self._stop.is_set():
            samples = await self._pool.generate(
                PROMPTS[place], count=4, sampling=LONG, version=self._version, seed=len(drawn)
            )
            drawn += [(PROMPTS[place], sample) for sample in samples]
        return drawn

    async def end(self) -> Drawn:
        """Let the last groups end and return everything."""
        self._stop.set()
        return [pair for drawn in await asyncio.gather(*self._workers) for pair in drawn]


@pytest_asyncio.fixture
async def meter(vllm: ServerProcess) -> AsyncIterator[Meter]:
    async with httpx.AsyncClient(base_url=vllm.url) as client:
        yield Meter(client)


async def test_completions_go_on_under_new_weights(vllm: ServerProcess, meter: Meter, tmp_path: Path) -> None:
    """Publications meet long completions, and nothing is lost or told wrong.

    Each is complete once, its versions never fall, every token has the log-probability of its version's model, and the
    server's count of finished completions equals ours.
    """
    folders = {version: export_model(tmp_path, version, version) for version in range(1, 5)}
    async with pool_of(vllm.url, "flow", continues=True) as pool:
        publisher = FilesystemPublisher(pool, keep=9)
        await publisher.publish(folders[1], 1)
        before = await pool.finished_requests()
        rollouts = Rollouts(pool, 1)
        for version in (2, 3, 4):
            await meter.until_sampled(100)
            await publisher.publish(folders[version], version)
        drawn = await rollouts.end()
        assert await pool.finished_requests() - before == pool.counts.samples == len(drawn)
        assert pool.counts.aborted > 0
        assert pool.counts.tokens == sum(len(sample.token_ids) for _, sample in drawn)
    check_all(folders, drawn)
    assert {version for _, sample in drawn for version in sample.token_versions} == {1, 2, 3, 4}
    assert any(sample.versions for _, sample in drawn)
    tokenizer = load_tokenizer(folders[1])
    for _, sample in drawn:
        assert list(sample.token_versions) == sorted(sample.token_versions)
        assert (sample.finish_reason == "stop") == (sample.token_ids[-1] == 1)
        assert len(sample.token_ids) == 300 or sample.finish_reason == "stop"
        assert sample.text == tokenizer.decode(sample.token_ids, skip_special_tokens=True)


async def test_a_cancelled_group_ends_on_the_server(vllm: ServerProcess, meter: Meter, tmp_path: Path) -> None:
    """The server samples no more for it at once, and none of it counts."""
    async with pool_of(vllm.url, "cancel") as pool:
        await FilesystemPublisher(pool).publish(export_model(tmp_path, 1, 1), 1)
        drawing = asyncio.ensure_future(draw(pool, 1, LONG, count=40))
        while await meter.read("num_requests_running") == 0:
            assert not drawing.done()
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        while await meter.read("num_requests_running") > 0:
            pass  # each look is a request
        assert (pool.counts.samples, pool.counts.cancelled) == (0, 40 * len(PROMPTS))


async def test_an_adapter_per_version(vllm: ServerProcess, meter: Meter, tmp_path: Path) -> None:
    """Log-probabilities are those of the merged model, and what is under way is left alone.

    A call ends under its own adapter although the next is loaded meanwhile; what no call needs is unloaded, and then its
    folder may go.
    """
    base = export_model(tmp_path / "base", 0, 0)
    async with pool_of(vllm.url, "base") as pool:
        await FilesystemPublisher(pool).publish(base, 0)  # whatever earlier tests have left
    merged: dict[int, torch.nn.Module] = {}
    async with pool_of(vllm.url, "lora", adapters=True, continues=True) as pool:
        publisher = AdapterPublisher(pool, keep=1)
        for version in (1, 2, 3):
            folder, merged[version] = export_adapter(tmp_path / "adapters", version, base, version)
            await publisher.publish(folder, version)
            if version == 1:
                rollouts = Rollouts(pool, 1)
            await meter.until_sampled(100)
        drawn = [*await rollouts.end(), *await draw(pool, 3)]
        assert pool.counts.aborted == 0
        for prompt, sample in drawn:
            assert largest_difference(merged[sample.version], prompt, sample, sample.version) < TOLERANCE
        assert {1, 3} <= {sample.version for _, sample in drawn} <= {1, 2, 3}
        assert not any(sample.versions for _, sample in drawn)
        folder, merged[4] = export_adapter(tmp_path / "adapters", 4, base, 4)
        await publisher.publish(folder, 4)
        assert {path.name for path in (tmp_path / "adapters").iterdir()} == {"v4"}
        (server,) = pool.servers
        models = (await server.call("GET", "/v1/models"))["data"]
        assert [model["id"] for model in models if "lora" in model["id"]] == [server.adapter(4)]
        with pytest.raises(ServerUnusable, match="lost the adapter"):
            await server.generate(PROMPTS[0], count=1, sampling=SHORT, version=3, seed=0)
    async with pool_of(vllm.url, "lora", adapters=True) as later:
        await AdapterPublisher(later).publish(folder, 4)
        (server,) = later.servers
        models = (await server.call("GET", "/v1/models"))["data"]
        assert [model["id"] for model in models if "lora" in model["id"]] == [server.adapter(4)]


async def test_a_broadcast_brings_the_weights(vllm: ServerProcess, tmp_path: Path) -> None:
    """Over Gloo, twice in one group and once in a new one: log-probabilities are those of each version's model."""
    folders = {version: export_model(tmp_path, version, 20 + version) for version in (1, 2, 3)}
    drawn: Drawn = []
    async with pool_of(vllm.url, "gloo") as pool:
        publisher = BroadcastPublisher(pool, partial(GlooTransport, "127.0.0.1"), keep=9)
        for version in (1, 2):
            await publisher.publish(folders[version], version)
            drawn += await draw(pool, version)
        await publisher.close()
        await publisher.publish(folders[3], 3)
        drawn += await draw(pool, 3)
        await publisher.close()
    check_all(folders, drawn)
    assert {sample.version for _, sample in drawn} == {1, 2, 3}
