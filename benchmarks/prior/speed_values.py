"""512 known prompts, 4,000 rows of evidence: the answer's time at the service layer and over HTTP."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import httpx

from benchmarks.prior.speed_clock import Times
from benchmarks.prior.speed_service import TEAM, service
from benchmarks.prior.speed_world import POLICY, STEP, Instant, question, steps

ROWS, POOL = 4_000, 1_024
VERSION = -(-ROWS // STEP)
WARM = 3
READY_S = 60


async def run(options: argparse.Namespace) -> None:
    """Print the time of an answer: by key alone, and with every text sent along."""
    for texts in (False, True):
        inside = Times()
        for seed in range(options.seeds):
            async with service(Instant(), refit_interval_s=3600.0, threads=options.threads) as prior:
                for request in steps(0, ROWS, POOL, seed):
                    await prior.add_evidence(TEAM, POLICY, request)
                for place in range(-WARM, options.repeats):
                    asked = question(VERSION, POOL, seed * 1000 + place + WARM, texts=texts)
                    times = inside if place >= 0 else Times()
                    with times.once():
                        answer = await prior.values(TEAM, asked)
                    if answer.degraded:
                        raise RuntimeError(answer.detail)
        print(f"  service layer, {'texts' if texts else 'keys alone'}, ms: {inside}", flush=True)
    for texts in (False, True):
        with _server(options.threads) as (process, client):
            for request in steps(0, ROWS, POOL, 0):
                client.post(f"/v1/policies/{POLICY}/evidence", content=request.model_dump_json()).raise_for_status()
            over = Times(process)
            for place in range(-WARM, options.repeats * options.seeds):
                body = question(VERSION, POOL, place + WARM, texts=texts).model_dump_json()
                times = over if place >= 0 else Times(process)
                with times.once():
                    client.post("/v1/values", content=body).raise_for_status()
        print(f"  over HTTP, {'texts' if texts else 'keys alone'}, ms: {over}", flush=True)


@contextlib.contextmanager
def _server(threads: int) -> Iterator[tuple[int, httpx.Client]]:
    """Start a service in a process of its own; yield its id and a client."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.prior.speed_server", folder, str(threads)]
        process = subprocess.Popen(  # noqa: S603  our own module
            command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        try:
            url, key = process.stdout.readline().split() if process.stdout else ("", "")
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            with httpx.Client(base_url=url, headers=headers, timeout=READY_S) as client:
                _wait(client)
                yield process.pid, client
        finally:
            process.terminate()
            process.wait()


def _wait(client: httpx.Client) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").is_success:
                return
        time.sleep(0.1)
    raise TimeoutError("the prior service was not ready in time")
