"""Adapters: a name per version, kept while a call needs it, gone with its folder afterwards; and the choice of a back end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.trainer.fake_vllm import FakeVllm
from trainer.config import Config, LearnerSection, RolloutsSection, WeightsSection
from trainer.config.learner import LoraSection
from trainer.errors import ConfigError, WeightUpdateFailed
from trainer.rollouts.pool import Patience, ServerPool
from trainer.rollouts.vllm import ServerUnusable
from trainer.types import Sampling
from trainer.weights.adapters import AdapterPublisher
from trainer.weights.backends import served
from trainer.weights.broadcast import BroadcastPublisher
from trainer.weights.exports import export_directory
from trainer.weights.filesystem import FilesystemPublisher

QUICK = Patience(attempts=3, deadline_s=5.0, pause_s=0.001, look_s=0.001)
SAMPLING = Sampling(max_tokens=8)
CALL = "/v1/completions"


def export(root: Path, version: int) -> Path:
    with export_directory(root, version) as directory:
        (directory / "adapter_model.safetensors").touch()
    return root / f"v{version}"


def folders(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


class Adapters(FakeVllm):
    """Holds adapters by name and answers only requests that name one of them."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.held = dict.fromkeys(names, "")
        self.hooks = {
            "/v1/models": self.models,
            "/v1/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": self.unload,
            CALL: self.require,
        }

    async def models(self, _body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(200, json={"data": [{"id": name} for name in ("policy", *self.held)]})

    async def load(self, body: dict[str, Any]) -> httpx.Response | None:
        if self.failures["/v1/load_lora_adapter"]:
            return None
        assert body["lora_name"] not in self.held
        self.held[body["lora_name"]] = body["lora_path"]
        return httpx.Response(200, text="Success")

    async def unload(self, body: dict[str, Any]) -> httpx.Response:
        found = self.held.pop(body["lora_name"], None)
        return httpx.Response(404 if found is None else 200, text="done")

    async def require(self, body: dict[str, Any]) -> httpx.Response | None:
        return None if body["model"] in self.held else httpx.Response(404, text="no such model")


def pool_of(*fakes: FakeVllm, run: str = "run") -> ServerPool:
    clients = [fake.client(f"http://{place}", run=run, adapters=True) for place, fake in enumerate(fakes)]
    return ServerPool(clients, QUICK, continues=True)


async def test_each_version_has_a_name_of_its_own_and_needs_no_pause(tmp_path: Path) -> None:
    fake = Adapters()
    pool = pool_of(fake)
    publisher = AdapterPublisher(pool, keep=1)
    (server,) = pool.servers
    for version in (1, 2):
        directory = export(tmp_path, version)
        await publisher.publish(directory, version)
        assert fake.held == {server.adapter(version): str(directory)}
        (sample,) = await pool.generate((5,), count=1, sampling=SAMPLING, version=1, seed=0)
        assert sample.version == version
        assert fake.bodies[-1]["model"] == server.adapter(version)
    assert not {"/pause", "/weight_info", "/reset_prefix_cache"} & set(fake.paths)
    assert folders(tmp_path) == {"v2"}
    await pool.close()


async def test_an_adapter_that_a_call_needs_stays_and_so_does_its_folder(tmp_path: Path) -> None:
    fake = Adapters()
    pool = pool_of(fake)
    (server,) = pool.servers
    publisher = AdapterPublisher(pool, keep=1)
    await publisher.publish(export(tmp_path, 1), 1)
    begun, free = asyncio.Event(), asyncio.Event()

    async def hold(_body: dict[str, Any]) -> None:
        begun.set()
        await free.wait()

    fake.hooks[CALL] = hold
    drawing = asyncio.ensure_future(pool.generate((5,), count=1, sampling=SAMPLING, version=1, seed=0))
    await begun.wait()
    await publisher.publish(export(tmp_path, 2), 2)
    assert set(fake.held) == {server.adapter(1), server.adapter(2)}
    assert folders(tmp_path) == {"v1", "v2"}
    free.set()
    assert [sample.version for sample in await drawing] == [1]
    await publisher.publish(export(tmp_path, 3), 3)
    assert set(fake.held) == {server.adapter(3)}
    assert folders(tmp_path) == {"v3"}
    await pool.close()


async def test_an_earlier_attempt_of_this_run_is_cleared_away_and_no_other_run(tmp_path: Path) -> None:
    """A resumed run draws version 7 anew: the adapter of that number from before must neither be used nor stay."""
    before = ["policy-a.4-00000000-v7", "policy-a.3-11111111-v6"]
    others = ["policy-a-b.4-00000000-v7", "policy-b.4-00000000-v7", "policy-a.4.4-00000000-v7", "policy-a.4-notes"]
    fake = Adapters(*before, *others)
    pool = pool_of(fake, run="a.4")
    (server,) = pool.servers
    await AdapterPublisher(pool).publish(export(tmp_path, 7), 7)
    assert set(fake.held) == {server.adapter(7), *others}
    await pool.close()


async def test_a_server_that_lost_its_adapters_loads_the_current_one_before_it_serves(tmp_path: Path) -> None:
    fake = Adapters()
    pool = pool_of(fake)
    (server,) = pool.servers
    await AdapterPublisher(pool).publish(export(tmp_path, 1), 1)
    fake.held.clear()  # it was restarted
    with pytest.raises(ServerUnusable, match="lost the adapter of version 1"):
        await server.generate((5,), count=1, sampling=SAMPLING, version=1, seed=0)
    (sample,) = await pool.generate((5,), count=1, sampling=SAMPLING, version=1, seed=0)
    assert (sample.version, set(fake.held)) == (1, {server.adapter(1)})
    await pool.close()


async def test_a_server_that_cannot_load_is_left_out(tmp_path: Path) -> None:
    good, bad = Adapters(), Adapters()
    bad.failures["/v1/load_lora_adapter"] = [500] * 10_000
    pool = pool_of(good, bad)
    await AdapterPublisher(pool).publish(export(tmp_path, 1), 1)
    assert pool.in_service == 1
    good.failures["/v1/load_lora_adapter"] = [404] * 10_000
    with pytest.raises(WeightUpdateFailed, match="no server loaded the adapter of version 2"):
        await AdapterPublisher(pool).publish(export(tmp_path, 2), 2)
    await pool.close()


@pytest.mark.parametrize(
    ("backend", "publisher"),
    [("filesystem", FilesystemPublisher), ("lora", AdapterPublisher), ("gloo", BroadcastPublisher)],
)
@pytest.mark.parametrize("staleness", [0, 2])
async def test_the_configuration_chooses(backend: Any, publisher: type, staleness: int) -> None:
    config = Config(
        rollouts=RolloutsSection(urls=["http://a", "http://b"], weights=[2.0, 1.0], max_staleness=staleness),
        weights=WeightsSection(backend=backend),
        learner=LearnerSection(lora=LoraSection(rank=8 if backend == "lora" else 0)),
    )
    pool, chosen = served(config)
    assert type(chosen) is publisher
    assert (pool.urls, pool.continues) == (["http://a", "http://b"], staleness > 0)
    await pool.close()


def test_a_back_end_that_cannot_work_here_is_said_before_the_run() -> None:
    config = Config(rollouts=RolloutsSection(urls=["http://a"]), weights=WeightsSection(backend="nccl"))
    with pytest.raises(ConfigError, match="nccl"):
        served(config)
