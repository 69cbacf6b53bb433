"""Sends shots on time over a pool of HTTP/1.1 connections, with as little work per request as Python allows.

A client library costs more than the service under test for small requests, on the same two cores. This one knows what
the services send: a status line, headers, and a body of declared length.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DEADLINE_S = 10.0
"""Longest wait for one answer, as the client of the package has it."""
MOST_CONNECTIONS = 1024
"""Connections open at once; a shot beyond that waits for one, and its latency says so."""
NO_ANSWER = 0
"""Status of a shot without an answer: refused, cut off or too late."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One request and its moment.

    Attributes:
        at_s: seconds after the start.
        who: under which name it is counted.
    """

    at_s: float
    who: str
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a shot; times in seconds after the start. `status` is `NO_ANSWER` without one."""

    who: str
    at_s: float
    done_s: float
    status: int
    retry_after_s: float | None = None
    body: bytes = b""

    @property
    def latency_s(self) -> float:
        """Seconds from the scheduled moment to the last byte of the answer."""
        return self.done_s - self.at_s


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Pool:
    """Idle connections to one server."""

    def __init__(self, host: str, port: int, *, keep_bodies: bool = False) -> None:
        self._address = host, port
        self._idle: list[Streams] = []
        self._keep = keep_bodies
        self._room = asyncio.Semaphore(MOST_CONNECTIONS)

    async def send(self, shot: Shot) -> tuple[int, float | None, bytes]:
        """Return status, `Retry-After` and body of the answer to a shot."""
        async with self._room:
            streams = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
            try:
                async with asyncio.timeout(DEADLINE_S):
                    status, headers, body = await _exchange(streams, shot, self._address)
            except BaseException:
                streams[1].close()
                raise
            if headers.get("connection") == "close":
                streams[1].close()
            else:
                self._idle.append(streams)
        after = headers.get("retry-after")
        return status, None if after is None else float(after), body if self._keep else b""

    async def close(self) -> None:
        """Close what is idle."""
        for _, writer in self._idle:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in self._idle), return_exceptions=True)


async def fire(host: str, port: int, shots: Sequence[Shot], *, keep_bodies: bool = False) -> list[Result]:
    """Send every shot at its moment and return what became of each, in the order of `shots`."""
    loop = asyncio.get_running_loop()
    pool = Pool(host, port, keep_bodies=keep_bodies)
    began = loop.time() + 0.05

    async def one(shot: Shot) -> Result:
        status, after, body = NO_ANSWER, None, b""
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            status, after, body = await pool.send(shot)
        return Result(shot.who, shot.at_s, loop.time() - began, status, after, body)

    flying: list[asyncio.Task[Result]] = [None] * len(shots)  # type: ignore[list-item]  # each is set below
    for place in sorted(range(len(shots)), key=lambda place: shots[place].at_s):
        await asyncio.sleep(max(0.0, began + shots[place].at_s - loop.time()))
        flying[place] = asyncio.create_task(one(shots[place]))
    results = await asyncio.gather(*flying)
    await pool.close()
    return results


async def _exchange(streams: Streams, shot: Shot, address: tuple[str, int]) -> tuple[int, dict[str, str], bytes]:
    reader, writer = streams
    lines = [f"{shot.method} {shot.path} HTTP/1.1", f"Host: {address[0]}:{address[1]}"]
    lines += [f"{name}: {value}" for name, value in shot.headers.items()]
    if shot.body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(shot.body)}"]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + shot.body)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split()[1]), headers, body
