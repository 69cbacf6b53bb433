"""An application on a real socket, for tests whose client is not in this process's event loop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI


@contextmanager
def served(app: FastAPI, *, port: int = 0) -> Iterator[str]:
    """Run an application under uvicorn in a thread, on any port by default, and give its URL; it stops as on SIGTERM."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))
    with socket.create_server(("127.0.0.1", port)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:  # whatever the test met: its thread would keep the interpreter from ending
            server.should_exit = True
            thread.join()
