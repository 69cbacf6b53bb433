"""The processes that are measured: the service on SQLite and on PostgreSQL, the bare application, and the databases.

All run on this machine under the same uvicorn; PostgreSQL comes from a wheel unless a URL is given.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg

from benchmarks.allocator.load import Target
from benchmarks.scale.real import new_database

START_S = 60.0
"""Longest wait for a server to answer: it imports numpy and migrates a database first."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server process and, of the service, the URL of its database."""

    name: str
    target: Target
    pid: int
    url: str = ""

    @property
    def rss(self) -> int:
        """Resident bytes of the process."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stored(self) -> int:
        """Bytes of the database's tables and indexes, after a checkpoint."""
        if self.url.startswith("sqlite"):
            return sum(file.stat().st_size for file in Path(self.url.removeprefix("sqlite:///")).parent.glob("*.db*"))
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        return int(row[0]) if row else 0


def database_url(database: str, folder: Path, postgres: str) -> str:
    """Return the URL of a new, empty database of this kind (`sqlite` or `postgresql`)."""
    name = f"bench_{secrets.token_hex(4)}"
    if database == "sqlite":
        return f"sqlite:///{folder / name / 'allocator.db'}"
    return new_database(postgres, name)


@contextmanager
def service(name: str, url: str, folder: Path, wrap: list[str] | None = None) -> Iterator[Server]:
    """Run the real service, embedded mode and default settings, on a database.

    Args:
        name: what the figures are called.
        url: the database.
        folder: where its keys are.
        wrap: a command to start it with, such as a profiler.
    """
    data = folder / f"keys-{secrets.token_hex(4)}"
    port = free_port()
    command = [
        *(wrap or []),
        sys.executable,
        "-m",
        "services.allocator",
        "serve",
        "--data",
        str(data),
        "--port",
        str(port),
    ]
    with _process(command, {"ROLLOUT_BUDGET_ALLOCATOR_DATABASE_URL": url, **PATIENT}, port, "/readyz") as pid:
        yield Server(name, Target(port, (data / "team.key").read_text().strip()), pid, url)


@contextmanager
def bare(answers: Path) -> Iterator[Server]:
    """Run the bare application on recorded answers."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.allocator.bare", str(port), str(answers)]
    with _process(command, {}, port, "/openapi.json") as pid:
        yield Server("bare", Target(port, "none"), pid)


PATIENT = {"ROLLOUT_BUDGET_ALLOCATOR_MAX_QUEUE": "65536", "ROLLOUT_BUDGET_ALLOCATOR_QUEUE_WAIT_S": "60"}
"""A service that falls behind is late, and its lateness is measured; it refuses nothing. All else is as it comes."""


def free_port() -> int:
    """Return a port of loopback on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def _process(command: list[str], more: dict[str, str], port: int, path: str) -> Iterator[int]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **more}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603 - our own modules
    try:
        deadline = time.monotonic() + START_S
        while not _ready(port, path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"did not start: {' '.join(command)}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def _ready(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).is_success
    except httpx.TransportError:
        return False
