"""Real processes for long: trainers at work while messages suffer, services and PostgreSQL are killed, books audited.

One round after another, on SQLite with one service and on PostgreSQL with two, each on a new database. A round ends
calm: everything is up, trainers finish and report, and what they drew must be booked to the last rollout.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from rollout_budget.client import AdminClient, AllocatorClient, Retries
from rollout_budget.errors import ServiceError
from rollout_budget.wire import TeamLimits
from tests.allocator.databases import fresh_sqlite, migrated
from tests.faults.machines import OwnPostgres, ServiceProcess
from tests.faults.proxy import CommitProxy, Fault, HttpProxy
from tests.faults.workload import Drawn, Trainer, violations
from tests.soak.result import Result, say

ROUND_S = 75.0
TRAINERS = 4
TROUBLED = 0.1
"""Share of messages that suffer a fault."""
LEASES_S = (3.0, 900.0)
"""Leases of a round: short ones run out while a service is down."""
LIMITS = (None, 3000)
FAULTS = [fault for fault in Fault if fault is not Fault.NONE]
KILL_EVERY_S = (4.0, 12.0)
AUDIT_EVERY_S = 5.0


@dataclass(slots=True)
class Plant:
    """What a round runs on."""

    url: str
    services: list[ServiceProcess]
    postgres: OwnPostgres | None = None
    commits: CommitProxy | None = None
    strike: asyncio.Future[None] | None = None


def processes(seconds: float, seed: int) -> Result:
    """Run rounds until the time is over."""
    result = Result("processes", "calls", seeds=str(seed))
    began = time.perf_counter()
    asyncio.run(_rounds(result, began + seconds, seed))
    result.seconds = time.perf_counter() - began
    return result


async def _rounds(result: Result, until: float, seed: int) -> None:
    with OwnPostgres() as server:
        for number in itertools.count():
            left = until - time.perf_counter()
            if left <= 5.0 or result.violations:
                return
            random = Random(f"{seed} {number}")  # noqa: S311  what fails when, not a secret
            on_sqlite = number % 2 == 0
            with tempfile.TemporaryDirectory(prefix="rb-soak-") as folder:
                plant = _sqlite(Path(folder)) if on_sqlite else _postgres(Path(folder), server)
                async with plant as made:
                    drawn, limit = await _round(made, result, random, min(ROUND_S, left))
                found = await violations(made.url, drawn, limit=limit)
            result.violations += [f"round {number}: {what}" for what in found]
            result.operations += drawn.calls
            name = "SQLite" if on_sqlite else "PostgreSQL"
            say(
                f"  processes: round {number} on {name}: {drawn.steps} training steps, {drawn.rollouts.total()} rollouts"
            )


@asynccontextmanager
async def _sqlite(folder: Path) -> AsyncIterator[Plant]:
    url = fresh_sqlite(folder)
    async with ServiceProcess(folder, url) as service:
        yield Plant(url, [service])


@asynccontextmanager
async def _postgres(folder: Path, server: OwnPostgres) -> AsyncIterator[Plant]:
    name = server.new_database()
    migrated(server.url(name))
    async with CommitProxy(server.socket_path) as commits:
        first, second = (ServiceProcess(folder, server.url(name, commits.port)) for _ in range(2))
        async with first, second:
            yield Plant(server.url(name), [first, second], server, commits)


async def _round(plant: Plant, result: Result, random: Random, seconds: float) -> tuple[Drawn, int | None]:
    """Train through trouble for so many seconds, then in peace until everything is reported."""
    drawn, stop = Drawn(), asyncio.Event()
    limit, lease_s = random.choice(LIMITS), random.choice(LEASES_S)
    service = plant.services[0]
    async with AdminClient(f"http://127.0.0.1:{service.port}", service.admin_token) as admin:
        await admin.set_budget("default", TeamLimits(rollouts=limit))
    async with HttpProxy([one.port for one in plant.services]) as proxy:
        proxy.choose = lambda _: random.choice(FAULTS) if random.random() < TROUBLED else Fault.NONE
        trainers = [
            Trainer(proxy.url, service.token, f"r{place}", drawn, seed=random.getrandbits(32), lease_s=lease_s)
            for place in range(TRAINERS)
        ]
        work = [asyncio.create_task(trainer.work(stop)) for trainer in trainers]
        trouble = [asyncio.create_task(_kills(plant, result, random)), asyncio.create_task(_audits(plant, result))]
        await asyncio.wait([*work, *trouble], timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        await _calm(plant, trouble)
        proxy.choose = lambda _: Fault.NONE
        stop.set()
        ended = await asyncio.gather(*work, return_exceptions=True)
        result.violations += [f"G22: a trainer was stopped by {error!r}" for error in ended if error is not None]
        told = await asyncio.gather(*(trainer.settle() for trainer in trainers), return_exceptions=True)
        result.violations += [f"G10: a trainer could not report: {error!r}" for error in told if error is not None]
        result.faults += {fault.value: count for fault, count in proxy.seen.items() if fault is not Fault.NONE}
    return drawn, limit


async def _calm(plant: Plant, trouble: list[asyncio.Task[None]]) -> None:
    """End the trouble where it is safe: not in the middle of a restart."""
    for task in trouble:
        task.cancel()
    for ended in await asyncio.gather(*trouble, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
    if plant.strike is not None:
        await plant.strike
    if plant.commits is not None:
        plant.commits.armed = False


async def _kills(plant: Plant, result: Result, random: Random) -> None:
    while True:
        await asyncio.sleep(random.uniform(*KILL_EVERY_S))
        kinds = ["service SIGKILL"] * 2
        if plant.postgres is not None:
            kinds += ["PostgreSQL SIGKILL", "connection cut before COMMIT", "connection cut after COMMIT"]
        kind = random.choice(kinds)
        plant.strike = asyncio.ensure_future(_strike(kind, plant, random))
        await asyncio.shield(plant.strike)
        result.faults[kind] += 1


async def _strike(kind: str, plant: Plant, random: Random) -> None:
    if kind == "service SIGKILL":
        service = random.choice(plant.services)
        await service.kill()
        await service.start()
    elif kind == "PostgreSQL SIGKILL":
        assert plant.postgres is not None
        await asyncio.to_thread(plant.postgres.kill)
        await asyncio.sleep(random.choice((0.0, 2.0)))
        await asyncio.to_thread(plant.postgres.start)
    else:
        assert plant.commits is not None
        commits = plant.commits
        commits.commit, commits.committed = (_cut, None) if "before" in kind else (None, _cut)
        commits.armed = True


async def _cut() -> None:
    raise ConnectionResetError


async def _audits(plant: Plant, result: Result) -> None:
    """Ask for the budget by the front door while everything goes on: never overdrawn, but by what was drawn anyway."""
    service = plant.services[0]
    async with AllocatorClient(
        f"http://127.0.0.1:{service.port}", service.token, retries=Retries(attempts=1)
    ) as client:
        while True:
            await asyncio.sleep(AUDIT_EVERY_S)
            try:
                view = await client.budget()
            except ServiceError:
                continue
            if view.available is not None and view.available + view.usage.overage < 0:
                result.violations.append(
                    f"G1: {-view.available} rollouts overspent, {view.usage.overage} of them overage"
                )
