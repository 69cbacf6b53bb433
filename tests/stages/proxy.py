"""A proxy before one server that knows which stage of a step each request is, and lets somebody act there.

Its port stays while the server behind it is killed and comes back on another. It changes no byte; a client that goes away
takes its request with it, as without a proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.faults.proxy import _Listener, _message

LIMIT = 64 * 2**20
"""Bytes of the longest header or body that is read at once."""
PATHS = {
    "/values": "values",
    "/evidence": "evidence",
    "/groups/open": "open",
    "/groups/observe": "observe",
    "/groups/close": "close",
    "/v1/completions": "generate",
    "/pause": "pause",
    "/update_weights": "update",
    "/finish_weight_update": "finish",
    "/reset_prefix_cache": "reset",
    "/resume": "resume",
}
"""Stages by the end of a request's path."""

OnRequest = Callable[[str, bool], Awaitable[bool]]
"""Told of a stage and whether it was answered; says whether the answer is lost."""


async def _nothing(_stage: str, _answered: bool) -> bool:  # noqa: FBT001 - the shape of `OnRequest`
    return False


class StageProxy(_Listener):
    """Passes requests to one port of this machine.

    Attributes:
        upstream: the port; None refuses all.
        heard: see `OnRequest`.
        delay_s: how long each answer is held back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.upstream: int | None = None
        self.heard: OnRequest = _nothing
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            line, request = await _message(reader)
            path = line.split(" ")[1].partition("?")[0]
            stage = next((name for end, name in PATHS.items() if path.endswith(end)), "")
            answer = await self._exchange(request, stage, reader)
            if answer is None:
                return
            await asyncio.sleep(self.delay_s)
            writer.write(answer)
            await writer.drain()

    async def _exchange(self, request: bytes, stage: str, client: asyncio.StreamReader) -> bytes | None:
        """Return the answer; None where it is lost, or nobody waits for it any more."""
        if self.upstream is None:
            return None
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream, limit=LIMIT)
        try:
            writer.write(request)
            await writer.drain()
            if stage:
                await self.heard(stage, False)
            answering, leaving = asyncio.ensure_future(_message(reader)), asyncio.ensure_future(client.read(1))
            try:
                await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    return None
                _, answer = answering.result()
            finally:
                for task in (answering, leaving):
                    task.cancel()
                await asyncio.gather(answering, leaving, return_exceptions=True)
            return None if stage and await self.heard(stage, True) else answer
        finally:
            writer.transport.abort()
