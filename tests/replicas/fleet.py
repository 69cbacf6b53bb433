"""Real allocator processes on one PostgreSQL, and trainers whose every request goes to one of them by chance."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx

from rollout_budget.client import AllocatorClient, Retries
from tests.ports import free_port

START_TIMEOUT_S = 120.0
"""A service needs 3 s to start where nothing else runs, and ten times that on cores which others keep busy."""
PEPPER, ADMIN_KEY = "p" * 32, "a" * 32
ROOT = Path(__file__).resolve().parents[2]


@dataclass(eq=False)
class Replica:
    """One process; `code` is the folder whose code it runs."""

    process: asyncio.subprocess.Process
    url: str
    code: Path

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, if it still runs; return its exit status once it is gone."""
        if self.process.returncode is None:
            self.process.send_signal(how)
        return await self.process.wait()


@dataclass
class Fleet:
    """Replicas behind the simplest of balancers: those that `ready` names get requests."""

    database: str
    ready: list[Replica] = field(default_factory=list)
    every: list[Replica] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for replica in self.every:
            await replica.stop(signal.SIGKILL)

    async def start(self, code: Path = ROOT, *, wait_ready: bool = True) -> Replica:
        """Start one more, and let it serve once it can."""
        port = free_port()
        prefix = "ROLLOUT_BUDGET_ALLOCATOR_"
        mine = {"MODE": "production", "DATABASE_URL": self.database, "PEPPER": PEPPER, "ADMIN_KEY": ADMIN_KEY}
        environment = {**os.environ, "PYTHONPATH": str(code), **{prefix + name: value for name, value in mine.items()}}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "services.allocator", "serve", "--port", str(port)), env=environment, cwd=code
        )
        replica = Replica(process, f"http://127.0.0.1:{port}", code)
        self.every.append(replica)
        wanted = "readyz" if wait_ready else "livez"
        async with httpx.AsyncClient() as http, asyncio.timeout(START_TIMEOUT_S):
            while not await _answers(http, f"{replica.url}/{wanted}"):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        self.ready.append(replica)
        return replica

    async def retire(self, replica: Replica) -> int:
        """Take a replica from the balancer and stop it gracefully; return its exit status."""
        self.ready.remove(replica)
        return await replica.stop()


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == 200
    except httpx.TransportError:
        return False


class Spread(httpx.AsyncBaseTransport):
    """Sends every request to a replica that is ready, by chance; at times the same one to two replicas at once."""

    def __init__(self, fleet: Fleet, seed: int, twice: float = 0.0) -> None:
        self._fleet = fleet
        self._random = random.Random(seed)  # noqa: S311  chance, no secret
        self._twice = twice
        self._inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        wanted = 2 if self._random.random() < self._twice else 1
        chosen = self._random.sample(self._fleet.ready, min(wanted, len(self._fleet.ready)))
        answers = await asyncio.gather(
            *(self._send(request, body, replica) for replica in chosen), return_exceptions=True
        )
        good = [answer for answer in answers if isinstance(answer, httpx.Response)]
        if not good:
            raise next(answer for answer in answers if isinstance(answer, BaseException))
        return good[-1]

    async def _send(self, request: httpx.Request, body: bytes, replica: Replica) -> httpx.Response:
        url = httpx.URL(replica.url + request.url.raw_path.decode())
        headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"host"]
        sent = httpx.Request(request.method, url, headers=headers, content=body, extensions=request.extensions)
        answer = await self._inner.handle_async_request(sent)
        content = await answer.aread()
        await answer.aclose()
        return httpx.Response(answer.status_code, headers=answer.headers, content=content, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def key_of(fleet: Fleet, team: str, limits: dict[str, int] | None = None) -> str:
    """Make a team and return a token of it."""
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(base_url=fleet.ready[0].url, headers=admin) as http:
        made = await http.post("/v1/admin/teams", json={"team": team, "limits": limits or {}})
        assert made.status_code == 201, made.text
        body = {"team": team, "scope": "team"}
        answer = await http.post("/v1/admin/keys", json=body, headers={"Idempotency-Key": f"of {team}"})
        token: str = answer.json()["token"]
    return token


def client(fleet: Fleet, token: str, seed: int, twice: float = 0.0) -> AllocatorClient:
    """Return a client that spreads its requests over the fleet and retries as a trainer's does."""
    retries = Retries(attempts=100, timeout_s=120.0)
    return AllocatorClient("http://fleet", token, transport=Spread(fleet, seed, twice), retries=retries)
