"""`python -m benchmarks.prior.speed_server FOLDER THREADS`: the service over HTTP with an encoder that takes no time.

Prints its URL and key, then serves until it is terminated.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import uvicorn

from benchmarks.prior.speed_world import Instant
from services.prior_api.app import create_app
from services.prior_api.settings import Settings


def main() -> None:
    """Serve on a free port of loopback."""
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    settings = Settings(data=folder, device="cpu", encode_wait_s=60.0, refit_interval_s=3600.0, threads=threads)
    app = create_app(settings, encoder=Instant())
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]} {settings.key_file.read_text('utf-8').strip()}", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, loop="uvloop", http="httptools")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
