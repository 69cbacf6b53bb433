"""Two proxies on real sockets, for what a network does to a request and for the moment in which a database commits.

`HttpProxy` stands between clients and service processes and knows where a request and an answer end; `CommitProxy`
stands between a service and PostgreSQL and knows when a COMMIT goes by. Neither changes a byte.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Self

CHUNK = 65_536
HELD_S = 0.3
"""How long a delayed request waits."""


class Fault(Enum):
    """What happens to one request."""

    NONE = "delivered and answered"
    LOST = "connection closed, never delivered"
    TRUNCATED = "half of it delivered, then cut"
    DROPPED = "delivered, the answer dropped"
    CUT = "delivered, the answer cut in the middle"
    DELAYED = "held for a moment before it is delivered"
    DUPLICATED = "its bytes delivered twice at once"
    STALLED = "delivered, the answer never sent"


Choose = Callable[[str], Fault]
"""Says what happens to a request, given its first line."""
Hook = Callable[[str], Awaitable[None]]
"""Called with the first line of a request when its answer has come and nobody has it yet."""


async def _nothing(_line: str) -> None:
    """Nobody waits for this moment."""


class _Listener:
    """A listening socket and the connections through it."""

    def __init__(self) -> None:
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        await asyncio.sleep(0)  # transports that were aborted just now close with the loop's next turn

    def cut_all(self) -> None:
        """Break every connection."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError):
            pass  # either side is gone; so is the connection
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class HttpProxy(_Listener):
    """Passes requests to services in turn; `seen` counts what happened to them."""

    def __init__(self, ports: Sequence[int], choose: Choose | None = None, answered: Hook = _nothing) -> None:
        super().__init__()
        self._ports = ports
        self._turn = 0
        self.choose: Choose = choose or (lambda _: Fault.NONE)
        self.answered = answered
        self.seen: Counter[Fault] = Counter()

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            line, request = await _message(reader)
            fault = self.choose(line)
            self.seen[fault] += 1
            if fault is Fault.LOST:
                return
            if fault is Fault.TRUNCATED:
                await self._truncated(request)
                return
            if fault is Fault.DELAYED:
                await asyncio.sleep(HELD_S)
            if fault is Fault.DUPLICATED:
                answer, _ = await asyncio.gather(self._exchange(request), self._exchange(request))
            else:
                answer = await self._exchange(request)
            await self.answered(line)
            if fault is Fault.DROPPED:
                return
            if fault is Fault.STALLED:
                await reader.read()  # until the client goes away
                return
            writer.write(answer[: len(answer) // 2] if fault is Fault.CUT else answer)
            await writer.drain()
            if fault is Fault.CUT:
                return

    async def _exchange(self, request: bytes) -> bytes:
        reader, writer = await self._connect()
        try:
            writer.write(request)
            await writer.drain()
            return (await _message(reader))[1]
        finally:
            writer.transport.abort()

    async def _truncated(self, request: bytes) -> None:
        _, writer = await self._connect()
        writer.write(request[: len(request) - len(request) // 4])
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._turn += 1
        port = self._ports[self._turn % len(self._ports)]
        return await asyncio.open_connection("127.0.0.1", port, limit=64 * 2**20)


class CommitProxy(_Listener):
    """Passes a service's connections to PostgreSQL. `commit` and `committed` are awaited before and after one COMMIT.

    They are called for one COMMIT alone, the next of a transaction that wrote to the ledger's entries once `armed` is
    set: before it is delivered, and when its answer has come but was not passed on. A hook that raises OSError breaks
    the connection there and then.
    """

    def __init__(self, socket_path: str) -> None:
        super().__init__()
        self._path = socket_path
        self.armed = False
        self.commit: Callable[[], Awaitable[None]] | None = None
        self.committed: Callable[[], Awaitable[None]] | None = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_unix_connection(self._path)
        watching = asyncio.Event()

        async def forth() -> None:
            wrote = False
            while data := await reader.read(CHUNK):
                wrote |= self.armed and b"INSERT INTO entries" in data
                if wrote and b"COMMIT" in data:
                    wrote = False
                    self.armed = False
                    if self.commit is not None:
                        await self.commit()
                    watching.set()
                downstream.write(data)
                await downstream.drain()
            downstream.close()

        async def back() -> None:
            while data := await upstream.read(CHUNK):
                if watching.is_set():
                    watching.clear()
                    if self.committed is not None:
                        await self.committed()
                writer.write(data)
                await writer.drain()
            writer.close()

        ways = [asyncio.ensure_future(forth()), asyncio.ensure_future(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            downstream.transport.abort()


async def _message(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Read one request or answer with a stated length; return its first line and all its bytes."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    length = int(fields.get("content-length", "0"))
    return lines[0], head + (await reader.readexactly(length) if length else b"")
