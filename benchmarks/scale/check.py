"""The simulator against the real thing: one replica, one database, steps that arrive at random at several rates.

The same arrivals go to a real allocator on a real PostgreSQL and into the simulation, whose service times were measured
one call at a time. All of a step's calls wait for each other, steps wait for none (an open loop). Each run on a machine
of its own load: what else runs on it makes the real one slower and the simulated one not.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass

import httpx
import numpy as np

from benchmarks.scale import real
from benchmarks.scale.events import Loop, Process
from benchmarks.scale.measure import WAVES, steps
from benchmarks.scale.times import Times
from benchmarks.scale.world import Call, Deployment, Region

GROUPS = 32
RUNS = 8
THINK_S = 0.2
"""Between two calls of a step."""
SECONDS = 15.0
"""Of arrivals at each rate."""
UTILISATION = (0.15, 0.4, 0.6)
"""Of the replica's core by the service times alone: what arrives is chosen to bring this about."""
HERE = Deployment(replicas=1, database_cores=1, round_trip_s=0.0001)
"""As in calibration: service and database on one machine."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Latencies of all calls at one rate, in ms, as median and p99: real, simulated, and simulated on slowed cores.

    `slowed` says how many times as long the CPU seconds of service and database took, because others had the cores
    (from the scheduler's own account of waiting), `slowed_ms` what the simulation says with that.
    """

    steps_per_s: float
    utilisation: float
    calls: int
    real_ms: tuple[float, float]
    simulated_ms: tuple[float, float]
    slowed_ms: tuple[float, float]
    slowed: tuple[float, float]
    failed: int


def compare(times: Times, server: str | None = None) -> list[Comparison]:
    """Run both at each utilisation."""
    step = [("open", GROUPS), *[("observe", GROUPS)] * (WAVES - 1), ("last", GROUPS), ("close", GROUPS)]
    cpu_s = sum(times.cost(*call).cpu for call in step)
    server = server or real.server_url()
    url = real.new_database(server, f"scale_{secrets.token_hex(4)}")
    found = []
    with real.probed(url) as (pid, client, _record):
        for run in range(RUNS):
            client.post("/v1/runs", json=real.run_spec(f"run-{run}")).raise_for_status()
        for number, utilisation in enumerate((0.1, *UTILISATION)):  # the first warms up and does not count
            rate = utilisation / cpu_s
            arrivals = np.cumsum(np.random.default_rng(number).exponential(1 / rate, round(rate * SECONDS))).tolist()
            before = _account(pid, server)
            measured, failed = asyncio.run(_drive(client, arrivals, number))
            slowed = _slowed(before, _account(pid, server))
            plain = _middle(_simulate(times, step, arrivals))
            slow = _middle(_simulate(times.slowed(*slowed), step, arrivals))
            found.append(Comparison(rate, utilisation, len(measured), _middle(measured), plain, slow, slowed, failed))
    return found[1:]


def _middle(seconds: list[float]) -> tuple[float, float]:
    """Return median and p99 in ms."""
    return float(1e3 * np.quantile(seconds, 0.5)), float(1e3 * np.quantile(seconds, 0.99))


def _account(pid: int, server: str) -> list[tuple[float, float]]:
    """Return CPU seconds and seconds without a core, of the service and of the database."""
    database = real.family(real.postmaster(server))
    return [(sum(map(real.cpu_s, some)), real.queued_s(some)) for some in ([pid], database)]


def _slowed(before: list[tuple[float, float]], after: list[tuple[float, float]]) -> tuple[float, float]:
    pairs = [(new[0] - old[0], new[1] - old[1]) for old, new in zip(before, after, strict=True)]
    service, database = (1.0 + max(0.0, waited) / max(used, 1e-9) for used, waited in pairs)
    return service, database


async def _drive(client: httpx.Client, arrivals: list[float], seed: int) -> tuple[list[float], int]:
    seconds: list[float] = []
    failed = 0
    began = time.perf_counter()

    async def one(http: httpx.AsyncClient, number: int, at: float) -> None:
        nonlocal failed
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        bodies = real.Bodies(seed * 100_000 + number, first=seed * 100_000 + number)
        for place, (_, path, body) in enumerate(steps(f"run-{number % RUNS}", bodies, GROUPS)):
            if place:
                await asyncio.sleep(THINK_S)
            sent = time.perf_counter()
            failed += (await http.post(path, json=body)).is_error
            seconds.append(time.perf_counter() - sent)

    limits = httpx.Limits(max_connections=1000)
    async with httpx.AsyncClient(base_url=client.base_url, headers=client.headers, timeout=60, limits=limits) as http:
        await asyncio.gather(*(one(http, number, at) for number, at in enumerate(arrivals)))
    return seconds, failed


def _simulate(times: Times, step: list[tuple[str, int]], arrivals: list[float]) -> list[float]:
    loop, seconds = Loop(), list[float]()
    region = Region(loop, HERE, times, teams=1, seed=0)

    def one() -> Process:
        for place, (kind, groups) in enumerate(step):
            if place:
                yield THINK_S
            sent = loop.now
            yield region.send(Call(kind, groups, region.teams[0], set()), 60.0)
            seconds.append(loop.now - sent)

    for at in arrivals:
        loop.spawn(one(), at)
    loop.run(arrivals[-1] + 600.0)
    return seconds
