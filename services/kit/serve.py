"""Runs an application under uvicorn: one process, graceful stop; lines about requests are `http`'s, none the server's own.

When it is up it says so in one line of the log: the address, and which files hold the keys that it made.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Sequence
from pathlib import Path

import structlog
import uvicorn
from fastapi import FastAPI

from services.kit import tracing

KEEP_ALIVE_S = 75
"""Longer than the client's pool keeps idle connections, so that the client is the one to close them."""
NOTICE_S = 5.0
"""Time between `/readyz` turning false and the sockets closing, for balancers that probe every few seconds (G21)."""
DRAIN_S = 20
"""Longest wait for requests in flight after that: twice the client's default deadline; both fit into 30 s."""
COLLECT_AFTER = (50_000, 20, 20)
"""New objects before cycles are looked for, and how often older ones are looked at again. A batch of 512 groups makes some
ten thousand objects that all end with it: at Python's own thresholds an observe of them took 85 ms of CPU at the median,
at these 33 ms."""

_log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """Stops in order: says that it will (`app.state.draining`), goes on serving for `notice_s`, then closes and drains."""

    def __init__(self, app: FastAPI, *, host: str, port: int, notice_s: float, key_files: Sequence[Path] = ()) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                access_log=False,
                log_config=None,  # its warnings come in the form of all others (see `logs`)
                log_level="warning",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=DRAIN_S,
                server_header=False,
            )
        )
        self._app = app
        self._notice_s = notice_s
        self._key_files = key_files

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where, if it did; where its address cannot be had, say what to do, after uvicorn's own line."""
        try:
            await super().startup(sockets)
        except SystemExit:
            taken = f"{self._app.title} cannot listen on {self.config.host}:{self.config.port}"
            _log.error(f"{taken}: stop what is there, or choose another place with --host and --port")
            raise
        if self.started:
            bound = [one.getsockname()[:2] for server in self.servers for one in server.sockets]
            places = ", ".join(f"http://{f'[{host}]' if ':' in host else host}:{port}" for host, port in bound)
            files = ", ".join(map(str, self._key_files))
            _log.info(f"{self._app.title} listens on {places}" + (f"; keys in {files}" if files else ""))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give notice, then stop; what tracing has not sent yet goes last, for a signal ends the process after this."""
        self._app.state.draining = True
        await asyncio.sleep(self._notice_s)
        await super().shutdown(sockets)
        await asyncio.to_thread(tracing.stop)


def run(app: FastAPI, *, host: str, port: int, balanced: bool, key_files: Sequence[Path] = ()) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight; with notice where balancers probe (`balanced`)."""
    gc.collect()
    gc.freeze()  # what is there now stays to the end: no cycles are looked for among it
    gc.set_threshold(*COLLECT_AFTER)
    tracing.start(app.title.replace(" ", "-"))
    with contextlib.suppress(KeyboardInterrupt):
        Server(app, host=host, port=port, notice_s=NOTICE_S if balanced else 0.0, key_files=key_files).run()
