"""Runs an application under uvicorn: one process, graceful stop, no access log (metrics count requests)."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvicorn
from fastapi import FastAPI

KEEP_ALIVE_S = 75
"""Longer than the client's pool keeps idle connections, so that the client is the one to close them."""
NOTICE_S = 5.0
"""Time between `/readyz` turning false and the sockets closing, for balancers that probe every few seconds (G21)."""
DRAIN_S = 20
"""Longest wait for requests in flight after that: twice the client's default deadline; both fit into 30 s."""


class Server(uvicorn.Server):
    """Stops in order: says that it will (`app.state.draining`), goes on serving for `notice_s`, then closes and drains."""

    def __init__(self, app: FastAPI, *, host: str, port: int, notice_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                access_log=False,
                log_level="warning",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=DRAIN_S,
                server_header=False,
            )
        )
        self._app = app
        self._notice_s = notice_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give notice, then stop."""
        self._app.state.draining = True
        await asyncio.sleep(self._notice_s)
        await super().shutdown(sockets)


def run(app: FastAPI, *, host: str, port: int, balanced: bool) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight; with notice where balancers probe (`balanced`)."""
    with contextlib.suppress(KeyboardInterrupt):
        Server(app, host=host, port=port, notice_s=NOTICE_S if balanced else 0.0).run()
