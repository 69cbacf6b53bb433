"""An open-loop HTTP client: requests are sent when they are due, whatever became of earlier ones.

Latency counts from the moment a request was due, so a server that falls behind cannot hide it. The client speaks just
enough HTTP/1.1 for both applications, because a comfortable client costs more than the bare application it measures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

CONNECTIONS = 64
"""Connections that are kept; a request that finds none free waits, and its wait counts."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server: where it listens and the key that it knows."""

    port: int
    token: str


@dataclass(frozen=True, slots=True)
class Call:
    """One request: what it is (`open`, `observe`, `close`), where it goes, and its body."""

    name: str
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, `latency_s` after it was due."""

    call: Call
    status: int
    body: bytes
    latency_s: float


class Connection:
    """One kept-alive connection."""

    def __init__(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._head = f"Host: 127.0.0.1:{target.port}\r\nAuthorization: Bearer {target.token}\r\n"

    async def send(self, call: Call) -> tuple[int, bytes]:
        """Send a request and read its answer.

        Raises:
            OSError, asyncio.IncompleteReadError: the server closed the connection.
        """
        head = f"POST {call.path} HTTP/1.1\r\n{self._head}Content-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(call.body)}\r\n\r\n".encode() + call.body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(answer.split(None, 2)[1]), await self._reader.readexactly(length)

    def close(self) -> None:
        """Let go of it."""
        self._writer.close()


@asynccontextmanager
async def connections(target: Target, count: int = CONNECTIONS) -> AsyncIterator[asyncio.LifoQueue[Connection]]:
    """Open connections to a server; the one used last is used next."""
    idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    async with AsyncExitStack() as stack:
        for _ in range(count):
            connection = Connection(target, *await asyncio.open_connection("127.0.0.1", target.port, limit=2**24))
            stack.callback(connection.close)
            idle.put_nowait(connection)
        yield idle


async def open_loop(target: Target, calls: Sequence[Call], per_s: float, count: int = CONNECTIONS) -> list[Reply]:
    """Send call `i` at `i / per_s` seconds; return the replies in the order of the calls.

    Raises:
        RuntimeError: a request was not answered with 200 or 201: a figure of refusals would mean nothing.
    """
    async with connections(target, count) as idle:
        began = time.perf_counter()

        async def one(place: int, call: Call) -> Reply:
            due = began + place / per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            connection = await idle.get()
            status, body = await connection.send(call)
            latency = time.perf_counter() - due
            idle.put_nowait(connection)
            return Reply(call, status, body, latency)

        replies = await asyncio.gather(*(one(place, call) for place, call in enumerate(calls)))
    return [_accepted(reply) for reply in replies]


async def clients(target: Target, scripts: Sequence[Sequence[Call]]) -> float:
    """Let each client send its script, one call after another, all clients at once; return how long that took, seconds."""
    async with connections(target, len(scripts)) as idle:
        began = time.perf_counter()

        async def one(script: Sequence[Call]) -> None:
            connection = await idle.get()
            for call in script:
                _accepted(Reply(call, *await connection.send(call), 0.0))

        await asyncio.gather(*map(one, scripts))
        return time.perf_counter() - began


def _accepted(reply: Reply) -> Reply:
    if reply.status not in {200, 201}:
        raise RuntimeError(f"{reply.call.name} at {reply.call.path}: {reply.status} {reply.body[:300]!r}")
    return reply
