"""Broadcasts: the order of calls, who takes part, and what a lost server costs; and one real Gloo group in this process."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file
from torch._C import _distributed_c10d as c10d

from tests.trainer.fake_vllm import FakeVllm
from trainer.errors import ConfigError, WeightUpdateFailed
from trainer.rollouts.pool import Patience, ServerPool
from trainer.weights.broadcast import BroadcastPublisher, Meeting
from trainer.weights.exports import export_directory
from trainer.weights.gloo import PREFIX, TIMEOUT, GlooTransport
from trainer.weights.group import Bounds, rank_offsets
from trainer.weights.nccl import NcclTransport
from trainer.weights.stream import Manifest, manifest, tensors
from trainer.weights.transport import Named

QUICK = Patience(attempts=3, deadline_s=5.0, pause_s=0.001, look_s=0.001)
BOUNDS = Bounds(attempts=3, meet_s=2.0, transfer_s=2.0, grace_s=0.5, look_s=0.5)
WEIGHTS = {"b": torch.ones(2, 3), "a": torch.arange(4, dtype=torch.bfloat16), "c": torch.tensor(2.0)}
ORDER = [
    "/pause",
    "/update_weight_version",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/reset_prefix_cache",
    "/resume",
]


def export(root: Path, version: int) -> Path:
    with export_directory(root, version) as directory:
        save_file(WEIGHTS, directory / "model.safetensors")
    return root / f"v{version}"


class Wire:
    """A network without tensors: members join by request, and each transfer needs all of them."""

    def __init__(self) -> None:
        self.opened: list[FakeTransport] = []

    def make(self) -> FakeTransport:
        transport = FakeTransport(self)
        self.opened.append(transport)
        return transport


class FakeTransport:
    """Waits for as many others as it was told; broken from outside, it stops waiting, and so do they."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.size = 0
        self.joined = threading.Semaphore(0)
        self.taken = threading.Semaphore(0)
        self.broken = threading.Event()
        self.sent: list[list[str]] = []

    def listen(self, world_size: int) -> dict[str, Any]:
        self.size = world_size
        return {"master_address": "here", "master_port": len(self.wire.opened), "world_size": world_size}

    def connect(self) -> None:
        self._await_all(self.joined)

    def send(self, named: Iterator[Named]) -> None:
        self.sent.append([name for name, _ in named])
        self._await_all(self.taken)

    def close(self) -> None:
        self.broken.set()

    def _await_all(self, signal: threading.Semaphore) -> None:
        for _ in range(self.size - 1):
            while not signal.acquire(timeout=0.001):
                if self.broken.is_set():
                    raise RuntimeError("connection closed by peer")


class Server(FakeVllm):
    """Takes part in transfers over a wire."""

    def __init__(self, wire: Wire, workers: int = 1) -> None:
        super().__init__()
        self.wire = wire
        self.workers = workers
        self.inits: list[dict[str, Any]] = []
        self.group: FakeTransport | None = None
        self.hooks = {
            "/get_world_size": self.world_size,
            "/init_weight_transfer_engine": self.init,
            "/update_weights": self.receive,
            "/shutdown_weight_transfer_engine": self.leave,
        }

    async def world_size(self, _body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(200, json={"world_size": self.workers})

    async def init(self, body: dict[str, Any]) -> httpx.Response | None:
        if self.failures["/init_weight_transfer_engine"]:
            return None
        self.inits.append(body["init_info"])
        self.group = self.wire.opened[-1]
        self.group.joined.release(self.workers)
        return httpx.Response(200, json={})

    async def leave(self, _body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(500 if self.updating else 200, text="cannot release a connection during an update")

    async def receive(self, body: dict[str, Any]) -> httpx.Response | None:
        if self.failures["/update_weights"] or not self.updating:
            return None
        if not body["update_info"]:
            self.updating = False
            return httpx.Response(500, text="an update of nothing")
        group = self.group
        assert group is not None
        group.taken.release(self.workers)
        self.weights = str(body["update_info"]["names"])
        return httpx.Response(200, json={})


class Stuck(Server):
    """Waits in every transfer for good, until it is told that its peers are gone."""

    async def receive(self, _body: dict[str, Any]) -> httpx.Response | None:
        group = self.group
        assert group is not None
        assert await asyncio.to_thread(group.broken.wait, 5)
        self.updating = False
        return httpx.Response(500, text="connection closed by peer")


def pool_of(*servers: FakeVllm) -> ServerPool:
    return ServerPool([server.client(f"http://{place}") for place, server in enumerate(servers)], QUICK)


async def test_a_transfer_keeps_the_order_and_says_what_will_come(tmp_path: Path) -> None:
    wire = Wire()
    server = Server(wire)
    pool = pool_of(server)
    directory = export(tmp_path, 4)
    await BroadcastPublisher(pool, wire.make, bounds=BOUNDS).publish(directory, 4)
    assert [path for path in server.paths if path in ORDER] == ORDER
    assert (server.version, server.paused, server.weights) == ("4", False, str(manifest(directory).names))
    assert wire.opened[0].sent == [manifest(directory).names]
    await pool.close()


async def test_servers_get_ranks_of_their_own_in_one_group_that_is_kept(tmp_path: Path) -> None:
    wire = Wire()
    servers = [Server(wire, workers=2), Server(wire), Server(wire)]
    pool = pool_of(*servers)
    publisher = BroadcastPublisher(pool, wire.make, bounds=BOUNDS)
    for version in (1, 2, 3):
        await publisher.publish(export(tmp_path, version), version)
    assert [[init["rank_offset"] for init in server.inits] for server in servers] == [[1], [3], [4]]
    assert {init["world_size"] for server in servers for init in server.inits} == {5}
    assert [len(transport.sent) for transport in wire.opened] == [3]
    assert {server.version for server in servers} == {"3"}
    await pool.close()


async def test_a_server_lost_in_a_transfer_costs_the_others_one_more_and_catches_up_in_a_group_of_its_own(
    tmp_path: Path,
) -> None:
    """SIGKILL in the middle: its request fails at once, the others' transfer is broken off, made anew without it."""
    wire = Wire()
    servers = [Server(wire), Server(wire), Server(wire)]
    pool = pool_of(*servers)
    publisher = BroadcastPublisher(pool, wire.make, bounds=BOUNDS)
    await publisher.publish(export(tmp_path, 1), 1)
    lost = servers[1]
    lost.failures["/update_weights"] = [httpx.ReadError("gone")]
    lost.failures["/health"] = []
    real_init = lost.hooks.pop("/init_weight_transfer_engine")

    async def go(body: dict[str, Any]) -> None:
        lost.failures["/health"] = [httpx.ConnectError("gone")] * 2
        for path in ("/abort_requests", "/resume"):
            lost.failures[path] = [httpx.ConnectError("gone")] * 3

    lost.hooks["/start_weight_update"] = go
    lost.hooks["/init_weight_transfer_engine"] = real_init
    await publisher.publish(export(tmp_path, 2), 2)
    assert [server.version for server in (servers[0], servers[2])] == ["2", "2"]
    assert [init["world_size"] for init in servers[0].inits] == [4, 3]
    lost.hooks.pop("/start_weight_update", None)
    async with asyncio.timeout(5):
        while pool.in_service < 3:  # noqa: ASYNC110 - a recovery has no signal of its own
            await asyncio.sleep(0)
    assert (lost.version, lost.inits[-1]["world_size"]) == ("2", 2)
    await publisher.publish(export(tmp_path, 3), 3)
    assert {server.version for server in servers} == {"3"}
    assert servers[0].inits[-1]["world_size"] == 4
    await pool.close()


async def test_who_does_not_pause_is_left_out_of_the_transfer(tmp_path: Path) -> None:
    wire = Wire()
    good, bad = Server(wire), Server(wire)
    bad.failures["/pause"] = [500] * 1000
    pool = pool_of(good, bad)
    await BroadcastPublisher(pool, wire.make, bounds=BOUNDS).publish(export(tmp_path, 1), 1)
    assert (good.version, bad.version, pool.in_service) == ("1", "0", 1)
    assert [init["world_size"] for init in good.inits] == [2]
    await pool.close()


async def test_a_transfer_that_hangs_ends_in_bounded_time_and_everybody_is_resumed(tmp_path: Path) -> None:
    wire = Wire()
    server = Stuck(wire)
    pool = pool_of(server)
    bounds = Bounds(attempts=2, meet_s=1.0, transfer_s=0.05, grace_s=0.5, look_s=0.5)
    with pytest.raises(WeightUpdateFailed, match="no server reached version 1"):
        await BroadcastPublisher(pool, wire.make, bounds=bounds).publish(export(tmp_path, 1), 1)
    assert not server.paused
    assert server.version == "loading-1"
    assert all(transport.broken.is_set() for transport in wire.opened)
    assert pool.in_service == 0
    await pool.close()


async def test_an_update_that_nobody_finished_is_ended_first(tmp_path: Path) -> None:
    wire = Wire()
    server = Server(wire)
    server.updating = True
    pool = pool_of(server)
    await BroadcastPublisher(pool, wire.make, bounds=BOUNDS).publish(export(tmp_path, 1), 1)
    assert server.version == "1"
    await pool.close()


async def test_a_version_that_is_there_needs_no_transfer(tmp_path: Path) -> None:
    wire = Wire()
    server = Server(wire)
    pool = pool_of(server)
    server.version = "1"
    await BroadcastPublisher(pool, wire.make, bounds=BOUNDS).publish(export(tmp_path, 1), 1)
    assert not wire.opened
    await pool.close()


async def test_a_meeting_waits_for_everybody_once() -> None:
    meeting = Meeting(["a", "b", "c"])
    joining = asyncio.ensure_future(meeting.take_part("a"))
    meeting.is_done_with("b")
    meeting.is_done_with("b")
    who = asyncio.ensure_future(meeting.who())
    await asyncio.sleep(0)
    assert not who.done()
    meeting.is_done_with("c")
    assert await who == {"a"}
    meeting.conclude({"a": WeightUpdateFailed("no")})
    with pytest.raises(WeightUpdateFailed, match="no"):
        await joining


def test_rank_offsets_leave_rank_0_to_the_learner() -> None:
    assert rank_offsets([2, 1, 4]) == [1, 3, 4, 8]


def test_a_manifest_names_what_will_come_in_that_order(tmp_path: Path) -> None:
    directory = export(tmp_path, 1)
    what = manifest(directory)
    assert [name for name, _ in tensors(directory)] == what.names
    for (name, tensor), dtype, shape in zip(tensors(directory), what.dtype_names, what.shapes, strict=True):
        assert torch.equal(tensor, WEIGHTS[name])
        assert (getattr(torch, dtype), shape) == (tensor.dtype, list(tensor.shape))


def test_something_that_is_no_weight_is_not_sent(tmp_path: Path) -> None:
    save_file({"mask": torch.ones(2, dtype=torch.bool)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightUpdateFailed, match="mask is of BOOL"):
        manifest(tmp_path)


def test_nccl_says_what_it_needs() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="needs a GPU"):
        NcclTransport("127.0.0.1")


class Other(threading.Thread):
    """Receives as the server's engine does, `tensors` of them, and leaves."""

    def __init__(self, rank: int, place: dict[str, Any], what: Manifest, tensors: int = len(WEIGHTS)) -> None:
        super().__init__(daemon=True)
        self._rank, self._place, self._what, self._tensors = rank, place, what, tensors
        self.received: dict[str, torch.Tensor] = {}
        self.error = ""
        self.start()

    def run(self) -> None:
        try:
            self._receive()
        except RuntimeError as error:
            self.error = str(error)

    def _receive(self) -> None:
        address, port, size = (self._place[name] for name in ("master_address", "master_port", "world_size"))
        store = c10d.TCPStore(address, port, size, is_master=False, timeout=TIMEOUT)
        group: Any = c10d.ProcessGroupGloo(c10d.PrefixStore(PREFIX, store), self._rank, size, TIMEOUT)
        options = c10d.BroadcastOptions()
        options.rootRank = 0
        rows = zip(self._what.names, self._what.dtype_names, self._what.shapes, strict=True)
        for name, dtype, shape in itertools.islice(rows, self._tensors):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            group.broadcast([tensor.reshape(-1).view(torch.uint8)], options).wait()
            self.received[name] = tensor


def test_gloo_brings_every_byte_to_every_member(tmp_path: Path) -> None:
    """Two others, bfloat16 and a scalar included."""
    directory = export(tmp_path, 1)
    transport = GlooTransport("127.0.0.1")
    place = transport.listen(3)
    others = [Other(rank, place, manifest(directory)) for rank in (1, 2)]
    transport.connect()
    transport.send(tensors(directory))
    for other in others:
        other.join(30)
        assert other.received.keys() == WEIGHTS.keys()
        assert all(torch.equal(other.received[name], WEIGHTS[name]) for name in WEIGHTS)
    transport.close()
    with pytest.raises(RuntimeError, match="closed"):
        transport.send(tensors(directory))


def test_others_notice_at_once_that_a_broken_gloo_group_was_closed(tmp_path: Path) -> None:
    """One leaves in the middle, sending fails, the group is closed: the last member must not wait for its timeout."""
    directory = export(tmp_path, 1)
    transport = GlooTransport("127.0.0.1")
    place = transport.listen(3)
    leaver = Other(1, place, manifest(directory), tensors=1)
    waiter = Other(2, place, manifest(directory))
    transport.connect()

    def drip() -> Iterator[Named]:
        for number, named in enumerate(tensors(directory)):
            if number == 1:
                leaver.join(30)
            yield named

    with pytest.raises(RuntimeError) as broken:  # and its traceback is held on to, as a task's error is
        transport.send(drip())
    transport.close()
    waiter.join(TIMEOUT.total_seconds() / 4)
    assert broken.value
    assert waiter.error
    assert len(waiter.received) < len(WEIGHTS)
