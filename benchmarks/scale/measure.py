"""Calibration: what one call of 1, 64 and 512 groups costs a real service and a real PostgreSQL, one call at a time."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import secrets
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.scale import real
from benchmarks.scale.times import CALLS, Cost, Times

SIZES = {1: 60, 64: 24, 512: 8}
"""Groups per call, and steps measured: some seconds each on one core."""
WARM = 3
"""Steps of each size that do not count."""
WAVES = 3


def calibrate(server: str | None = None) -> Times:
    """Measure every call at every size on a PostgreSQL server (from a wheel if None)."""
    server = server or real.server_url()
    url = real.new_database(server, f"scale_{secrets.token_hex(4)}")
    calls: dict[str, dict[int, Cost]] = {call: {} for call in CALLS}
    with real.probed(url) as (pid, client, record):
        for size, rounds in SIZES.items():
            for call, cost in _one_size(pid, real.postmaster(server), client, record, (size, rounds)).items():
                calls[call][size] = cost
    cores = os.cpu_count()
    machine = f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, PostgreSQL on the same machine"
    return Times(machine, dt.datetime.now(dt.UTC).date().isoformat(), calls)


def _one_size(pid: int, database: int, client: httpx.Client, record: Path, plan: tuple[int, int]) -> dict[str, Cost]:
    size, rounds = plan
    run_id = f"run-{size}"
    client.post("/v1/runs", json=real.run_spec(run_id)).raise_for_status()
    bodies = real.Bodies(size)
    used: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    lines: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for number in range(rounds + WARM):
        for call, path, body in steps(run_id, bodies, size):
            service, server = real.cpu_s(pid), real.family_cpu_s(database)
            client.post(path, json=body).raise_for_status()
            if number >= WARM:
                used[call].append((real.cpu_s(pid) - service, real.family_cpu_s(database) - server))
                lines[call].append(json.loads(record.read_text().rstrip().rpartition("\n")[2]))
    return {call: _cost(lines[call], used[call]) for call in used}


def steps(run_id: str, bodies: real.Bodies, size: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield call, path and body of one training step: open, `WAVES` reports of all groups, close."""
    path = f"/v1/runs/{run_id}/groups"
    body = bodies.open(size)
    yield "open", f"{path}/open", body
    drawn: dict[str, list[float]] = {}
    names = [group["group_id"] for group in body["groups"]]
    for wave in range(1, WAVES + 1):
        report = bodies.observe(drawn, dict.fromkeys(names, 2))
        yield "observe" if wave < WAVES else "last", f"{path}/observe", report
    yield "close", f"{path}/close", bodies.close(drawn)


def _cost(lines: list[dict[str, float]], used: list[tuple[float, float]]) -> Cost:
    """Return medians of times and means of counts; CPU of the service outside the application is halved around it."""
    middle = {name: statistics.median(line[name] for line in lines) for name in lines[0] if name != "call"}
    cpu, db = (statistics.median(one[place] for one in used) for place in (0, 1))
    outside = max(0.0, cpu - middle["cpu_before"] - middle["cpu_held"] - middle["cpu_after"])
    waits = middle["wait_before"] + middle["wait_held"]
    held = db * middle["wait_held"] / waits if waits else 0.0
    return Cost(
        cpu_before=middle["cpu_before"] + outside / 2,
        cpu_held=middle["cpu_held"],
        cpu_after=middle["cpu_after"] + outside / 2,
        db_before=db - held,
        db_held=held,
        commit=middle["commit"],
        statements_before=statistics.fmean(line["statements_before"] for line in lines),
        statements_held=statistics.fmean(line["statements_held"] for line in lines),
    )
