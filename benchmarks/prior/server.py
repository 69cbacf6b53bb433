"""A prior service for the time of a benchmark: a process of its own, its data in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

READY_S = 120
"""Longest wait for the encoder's weights on a busy machine."""
MAX_ROWS = 3072
"""Room for every row of the pooled protocols (2,816); the service's own default is smaller, for quicker refits."""


@contextlib.contextmanager
def prior_service() -> Iterator[tuple[str, str]]:
    """Start the service, wait until it is ready, and give its URL and key; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"DATA": folder, "PORT": str(port), "MAX_ROWS": str(MAX_ROWS)}
        environment = os.environ | {f"ROLLOUT_BUDGET_PRIOR_{name}": value for name, value in settings.items()}
        process = subprocess.Popen([sys.executable, "-m", "services.prior_api"], env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url)
            yield url, (Path(folder) / "prior.key").read_text().strip()
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the prior service ended with {process.returncode}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").is_success:
                return
        time.sleep(0.1)
    raise TimeoutError(f"the prior service was not ready after {READY_S} s")
