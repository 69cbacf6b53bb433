"""An allocator in a process of its own, and what is sent to it: a neighbour, an overload, a stall.

Steps are small: open one group, close it. Every shot opens a group of its own id, so that nothing is answered from what
is stored, and one shot is one write transaction.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from rollout_budget.client import AdminClient, AllocatorClient
from rollout_budget.wire import DecideGroup, DecideRequest, KeyCreate, RunSpec, SuppliedPrior, TeamCreate
from tests.load.schedule import poisson
from tests.load.wire import Pool, Result, Shot, fire

START_TIMEOUT_S = 60.0
RUN = "load"


@dataclass(slots=True)
class Target:
    """A running allocator and its teams' keys; mints group ids."""

    host: str
    port: int
    pid: int
    keys: Mapping[str, str] = field(default_factory=dict)
    _count: int = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.host}:{self.port}"

    def headers(self, team: str) -> dict[str, str]:
        """Headers of a team."""
        return {"Authorization": f"Bearer {self.keys[team]}"}

    def opens(self, team: str, moments: Iterable[float], groups: int = 1) -> list[Shot]:
        """Return shots that open new groups at these moments."""
        shots = []
        for at_s in moments:
            self._count += 1
            asked = [{"group_id": f"{self._count}-{place}", "prompt_key": f"k{place}"} for place in range(groups)]
            body = json.dumps({"groups": asked}).encode()
            shots.append(Shot(at_s, team, "POST", f"/v1/runs/{RUN}/groups/open", body, self.headers(team)))
        return shots

    async def fire(self, shots: Sequence[Shot]) -> list[Result]:
        """Send shots on time."""
        return await fire(self.host, self.port, shots)


@asynccontextmanager
async def allocator(folder: Path, teams: Sequence[str], **settings: object) -> AsyncIterator[Target]:
    """Run an allocator process with these teams and settings, one run `load` each; kill it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    named = {f"ROLLOUT_BUDGET_ALLOCATOR_{name.upper()}": str(value) for name, value in settings.items()}
    command = (sys.executable, "-m", "services.allocator", "serve", "--data", str(folder), "--port", str(port))
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **named})
    try:
        target = Target("127.0.0.1", port, process.pid)
        await _ready(target.url, process)
        target.keys = await _move_in(target.url, (folder / "admin.key").read_text().strip(), teams)
        yield target
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def large_decision(groups: int, outcomes: int) -> bytes:
    """Return the body of a stateless decision about so many groups, a hundred milliseconds of one core or more."""
    batch = [
        DecideGroup(
            group_id=f"g{place}",
            prior=SuppliedPrior(value=(place % 9 + 0.5) / 10),
            outcomes=[float((place * 7 + draw * 3) % 5 < 2) for draw in range(outcomes)],
        )
        for place in range(groups)
    ]
    return DecideRequest(groups=batch).model_dump_json(exclude_none=True).encode()


async def neighbour(target: Target, per_s: float, seconds: float, times: Sequence[float]) -> list[list[Result]]:
    """Send a team's load beside another that sends so many times as much; one round each."""
    rounds = []
    for factor in times:
        shots = target.opens("quiet", poisson(per_s, seconds, seed=1))
        if factor:
            shots += target.opens("loud", poisson(factor * per_s, seconds, seed=2))
        rounds.append(await target.fire(shots))
        await asyncio.sleep(1.0)
    return rounds


async def overload(
    target: Target, capacity: float, seconds: float, after_s: float, factor: float = 3.0
) -> list[Result]:
    """Send a multiple of what it can do for some seconds, then half of it; two teams, half of the load each."""
    shots = []
    for seed, team in enumerate(("quiet", "loud")):
        flood = poisson(factor * capacity / 2, seconds, seed)
        calm = [seconds + at for at in poisson(capacity / 4, after_s, 10 + seed)]
        shots += target.opens(team, [*flood, *calm])
    return await target.fire(shots)


async def capacity(target: Target, seconds: float = 5.0, clients: int = 16) -> float:
    """Return good answers per second of a closed loop of clients, half of them of each team: the peak."""
    teams = ("quiet", "loud")
    pool = Pool(target.host, target.port)
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    done = 0

    async def client(team: str) -> None:
        nonlocal done
        while loop.time() < ends:
            status, _, _ = await pool.send(target.opens(team, [0.0])[0])
            done += status == 200

    await asyncio.gather(*(client(teams[place % 2]) for place in range(clients)))
    await pool.close()
    return done / seconds


async def _ready(url: str, process: asyncio.subprocess.Process) -> None:
    async with httpx.AsyncClient() as http, asyncio.timeout(START_TIMEOUT_S):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"the allocator ended with status {process.returncode}")
            try:
                if (await http.get(f"{url}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


async def _move_in(url: str, admin_key: str, teams: Sequence[str]) -> dict[str, str]:
    keys = {}
    async with AdminClient(url, admin_key) as admin:
        for team in teams:
            await admin.create_team(TeamCreate(team=team))
            keys[team] = (await admin.create_key(KeyCreate(team=team), idempotency_key=team)).token
    for team, token in keys.items():
        async with AllocatorClient(url, token) as client:
            await client.create_run(RunSpec(run_id=RUN, policy=team, k_init=2))
    return keys
