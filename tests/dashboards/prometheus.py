"""A real Prometheus for tests, on a free port with a folder of its own, and what one asks of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.ports import free_port
from tests.tools import find_tool

SCRAPE_S = 0.25
PAUSE_S = 0.05
"""Between two looks whether it is ready or has scraped: it tells nobody by itself."""
PATIENCE_S = 60.0

Labels = frozenset[tuple[str, str]]


class Prometheus:
    """A client of a running Prometheus. `at` is the time that queries are answered for; None for now."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=30.0)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def query(self, expr: str, at: float | None = None) -> dict[Labels, float]:
        """Return the vector that an expression comes to, by labels; a scalar has none.

        Raises:
            AssertionError: it does not parse or cannot be evaluated.
        """
        data = self._ask("/query", {"query": expr, **({} if at is None else {"time": str(at)})})
        rows = [{"metric": {}, "value": data["result"]}] if data["resultType"] == "scalar" else data["result"]
        return {frozenset(row["metric"].items()): float(row["value"][1]) for row in rows}

    def values(self, label: str, selector: str) -> list[str]:
        """Return what Grafana's `label_values(selector, label)` lists."""
        return list(self._ask(f"/label/{label}/values", {"match[]": selector}))

    def until(self, condition: str) -> None:
        """Wait until an expression, a comparison, has a result."""
        gives_up = time.monotonic() + PATIENCE_S
        while not self.query(condition):
            assert time.monotonic() < gives_up, f"did not come true: {condition}"
            time.sleep(PAUSE_S)

    def until_scraped(self, *, since: float) -> None:
        """Wait until every target was scraped, and well, by a scrape that began after this time (seconds since 1970)."""
        self.until(f"min(timestamp(up)) > {since} and min(up) == 1")

    def _ask(self, path: str, parameters: Mapping[str, str]) -> Any:
        answer = self._http.get(path, params=dict(parameters))
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body.get('error')}"
        return body["data"]


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """Run Prometheus on targets (`host:port`) by job, with this project's rules; skip where there is none."""
    program = find_tool("prometheus")
    jobs = [{"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()]
    scraping = {"scrape_interval": f"{int(SCRAPE_S * 1000)}ms", "evaluation_interval": "1s"}
    config = folder / "prometheus.yml"
    config.write_text(json.dumps({"global": scraping, "scrape_configs": jobs}), "utf-8")  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(program),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            _until_ready(process, address)
            client = Prometheus(f"http://{address}")
            yield client
            client.close()
        finally:
            process.terminate()


def _until_ready(process: subprocess.Popen[str], address: str) -> None:
    gives_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            if httpx.get(f"http://{address}/-/ready", timeout=5.0).is_success:
                return
        except httpx.TransportError:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < gives_up, "Prometheus did not become ready"
        time.sleep(PAUSE_S)
