"""Runs an application under uvicorn: one process, graceful stop, no access log (metrics count requests)."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI

KEEP_ALIVE_S = 75
"""Longer than the client's pool keeps idle connections, so that the client is the one to close them."""
DRAIN_S = 20
"""Longest wait for requests in flight after SIGTERM: twice the client's default deadline (G21)."""


def run(app: FastAPI, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
    )
