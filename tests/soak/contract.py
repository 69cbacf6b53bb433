"""Schemathesis against both services as processes, all its phases: examples, coverage, fuzzing, and stateful links (G20).

Each of the three doors (a team's routes, the admin's, the prior service's) is asked with a key that opens it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.machines import ServiceProcess
from tests.prior_api.test_process import running
from tests.soak.result import Result, say

PHASES = "examples,coverage,fuzzing,stateful"
TOO_STRICT = (
    "positive_data_acceptance",  # no schema can say that an outcome lies in its run's range, or that a key is unused
    "ensure_resource_availability",  # the 404 of a run that was just made may be about a group in the body
)


@dataclass(frozen=True, slots=True)
class Door:
    """Where a part of an interface is, and the key that opens it."""

    name: str
    url: str
    token: str
    paths: str


def contract(seconds: float, seed: int) -> Result:
    """Ask at every door for a third of the time."""
    result = Result("contract", "requests", seeds=str(seed))
    began = time.perf_counter()
    with _allocator() as doors:
        for door in doors:
            _ask(door, seconds / 3, seed, result)
    with tempfile.TemporaryDirectory(prefix="rb-soak-") as folder, running(Path(folder)) as (_, client):
        token = client.headers["Authorization"].removeprefix("Bearer ")
        _ask(Door("prior", str(client.base_url), token, "^/v1/"), seconds / 3, seed, result)
    result.seconds = time.perf_counter() - began
    return result


@contextmanager
def _allocator() -> Iterator[list[Door]]:
    with tempfile.TemporaryDirectory(prefix="rb-soak-") as folder, asyncio.Runner() as runner:
        service = ServiceProcess(Path(folder))
        runner.run(service.start())
        url = f"http://127.0.0.1:{service.port}"
        try:
            yield [
                Door("team", url, service.token, "^/v1/(?!admin)"),
                Door("admin", url, service.admin_token, "^/v1/admin"),
            ]
        finally:
            runner.run(service.kill())


def _ask(door: Door, seconds: float, seed: int, result: Result) -> None:
    with tempfile.TemporaryDirectory(prefix="rb-contract-") as folder:
        report = Path(folder) / "report.json"
        program = str(Path(sys.executable).parent / "schemathesis")
        command = [program, "run", f"{door.url}/openapi.json", "-H", f"Authorization: Bearer {door.token}"]
        command += ["--include-path-regex", door.paths, "--phases", PHASES, "--max-time", str(max(int(seconds), 1))]
        command += ["--checks", "all", "--exclude-checks", ",".join(TOO_STRICT), "--seed", str(seed)]
        command += ["--no-color", "--warnings", "off", "--generation-database", "none"]
        command += ["--rate-limit", "auto", "--request-timeout", "20", "--report-json-path", str(report)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = json.loads(report.read_text()) if report.exists() else None
    if found is None:
        result.violations.append(f"{door.name}: schemathesis ended with {done.returncode}: {done.stdout[-2000:]}")
        return
    cases = found["test_cases"]["generated"]
    result.operations += cases
    phases = ", ".join(f"{name} {phase['status']}" for name, phase in found["phases"].items())
    result.notes.append(f"{door.name}: {cases:,} requests, {found['operations']['tested']} operations; {phases}")
    for failure in [*found["failures"], *found["errors"]]:
        result.violations.append(f"G20 {door.name}: {json.dumps(failure)[:500]}")
    if done.returncode not in {0, 1} or (found["failures"] and done.stdout):
        say(done.stdout[-6000:])
    say(f"  contract: {door.name}: {cases:,} requests")
