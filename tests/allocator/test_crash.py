"""Real service processes that are killed and stopped under load."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from rollout_budget.client import AllocatorClient, Retries
from rollout_budget.errors import RolloutBudgetError
from rollout_budget.wire import CloseGroup, CloseRequest, OpenedGroup, OpenGroup, OpenRequest, RunSpec
from services.allocator.database.store import SqlStore
from services.kit.database import connect
from services.kit.session import Database
from tests.ports import free_port

pytestmark = pytest.mark.services
START_TIMEOUT_S = 120.0
ENOUGH = 8
"""Acknowledged steps of each trainer before the service is hit: it is in the middle of its work then."""


@asynccontextmanager
async def process(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run a service on `folder`; yield it with its URL once it is ready; kill it at the end if it still lives."""
    port = free_port()
    command = ("-m", "services.allocator", "serve", "--data", str(folder), "--port", str(port))
    service = await asyncio.create_subprocess_exec(sys.executable, *command)
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient() as http, asyncio.timeout(START_TIMEOUT_S):
            while not await _ready(http, url):
                assert service.returncode is None
                await asyncio.sleep(0.05)
        yield service, url
    finally:
        if service.returncode is None:
            service.kill()
        await service.wait()


async def _ready(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


def client(url: str, folder: Path, attempts: int = 1) -> AllocatorClient:
    return AllocatorClient(url, (folder / "team.key").read_text().strip(), retries=Retries(attempts=attempts))


@dataclass
class Trainer:
    """Opens and closes one group after another until the service is gone, and keeps what was acknowledged."""

    name: str
    opened: list[OpenedGroup] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    unknown: str = ""

    def request(self, group_id: str) -> OpenRequest:
        return OpenRequest(groups=[OpenGroup(group_id=group_id, prompt_key="k", step=0)])

    async def work(self, allocator: AllocatorClient) -> None:
        for turn in range(1_000_000):
            group_id = f"{self.name}-{turn}"
            try:
                self.opened += (await allocator.open("r", self.request(group_id))).groups
                if turn % 2:
                    await allocator.close("r", CloseRequest(groups=[CloseGroup(group_id=group_id, used=1)]))
                    self.closed.append(group_id)
            except RolloutBudgetError:
                self.unknown = group_id
                return
            if turn == ENOUGH:
                self.enough.set()


async def under_load(folder: Path, stop: signal.Signals) -> tuple[list[Trainer], int]:
    """Let four trainers work, send the signal in the middle, and return them with the exit status."""
    trainers = [Trainer(name) for name in "abcd"]
    async with process(folder) as (service, url), client(url, folder) as allocator:
        await allocator.create_run(RunSpec(run_id="r", policy="p", k_init=4))
        work = [asyncio.create_task(trainer.work(allocator)) for trainer in trainers]
        for trainer in trainers:
            await trainer.enough.wait()
        service.send_signal(stop)
        status = await service.wait()
        await asyncio.gather(*work)
    return trainers, status


async def audited(folder: Path) -> None:
    """Recompute all counters of the file from its entries."""
    engine = connect(f"sqlite:///{folder / 'allocator.db'}")
    async with SqlStore(Database(engine)).transaction() as transaction:
        assert await transaction.ledger.audit() == []
    await engine.dispose()


async def settled_once(folder: Path, trainers: list[Trainer]) -> None:
    """After a restart: what was acknowledged is there, what was not is safe to repeat, all of it adds up."""
    async with process(folder) as (_, url), client(url, folder, attempts=4) as allocator:
        for trainer in trainers:
            for group in trainer.opened:
                held = await allocator.reservation(f"r/{group.group_id}/0/0")
                assert held.rollouts == group.grant
                assert held.state == "committed" or group.group_id not in trainer.closed
            first = await allocator.open("r", trainer.request(trainer.unknown))
            assert first == await allocator.open("r", trainer.request(trainer.unknown))
        usage = (await allocator.get_run("r")).usage
    groups = {group.group_id: group.grant for trainer in trainers for group in trainer.opened}
    groups |= {trainer.unknown: groups.get(trainer.unknown, 4) for trainer in trainers}
    assert usage.granted == sum(groups.values())
    closed = sum(len(trainer.closed) for trainer in trainers)
    assert closed <= usage.committed <= closed + len(trainers)
    await audited(folder)


async def test_g09_a_kill_loses_nothing_acknowledged_and_doubles_nothing(tmp_path: Path) -> None:
    """SIGKILL in the middle of four trainers' work on a SQLite file, then a restart on the same file."""
    trainers, status = await under_load(tmp_path, signal.SIGKILL)
    assert status == -signal.SIGKILL
    await audited(tmp_path)
    await settled_once(tmp_path, trainers)


async def test_g21_a_graceful_stop_finishes_what_is_in_flight(tmp_path: Path) -> None:
    """SIGTERM in the middle: the process ends by itself, and every acknowledged request is there afterwards."""
    trainers, status = await under_load(tmp_path, signal.SIGTERM)
    assert status in {0, -signal.SIGTERM}
    await settled_once(tmp_path, trainers)
