"""The service as a real process: `kill -9`, a graceful stop, the command line, the committed document."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from services.prior_api.__main__ import openapi
from tests.paths import ROOT

DEADLINE_S = 60
ROWS = [{"id": f"r{i}", "key": f"p{i % 7}", "version": i % 3, "successes": i % 5, "trials": 4} for i in range(300)]


@contextlib.contextmanager
def running(data: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Start the service on `data` and wait until it lives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"ROLLOUT_BUDGET_PRIOR_DATA": str(data), "ROLLOUT_BUDGET_PRIOR_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "services.prior_api"], cwd=ROOT, env=os.environ | settings | environment
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            deadline = time.monotonic() + DEADLINE_S
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/livez").status_code == 200:
                        break
                assert process.poll() is None, "the service ended"
                assert time.monotonic() < deadline, "the service did not come up"
                time.sleep(0.05)
            client.headers["Authorization"] = f"Bearer {(data / 'prior.key').read_text().strip()}"
            yield process, client
    finally:
        process.kill()
        process.wait()


def ask(client: httpx.Client, model: str) -> object:
    prompts = [{"key": f"p{i}", "text": f"What is {i} plus {i}?"} for i in range(7)]
    return client.post("/v1/values", json={"policy": "m", "version": 2, "prompts": prompts, "model": model}).json()


@pytest.mark.services
def test_g09_acknowledged_evidence_survives_kill_9(tmp_path: Path) -> None:
    """After SIGKILL nothing acknowledged is missing, nothing is doubled, and the values are the same."""
    with running(tmp_path) as (process, client):
        for start in range(0, 300, 50):
            answer = client.post("/v1/policies/m/evidence", json={"rows": ROWS[start : start + 50]})
            assert answer.json()["stored"] == 50
        before = ask(client, "history")
        process.send_signal(signal.SIGKILL)
        process.wait()
    with running(tmp_path) as (process, client):
        again = client.post("/v1/policies/m/evidence", json={"rows": ROWS})
        assert again.json() == {"stored": 0, "repeated": 300, "evidence_version": 300}
        assert ask(client, "history") == before
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)


@pytest.mark.services
def test_a_second_process_on_a_sqlite_file_is_refused(tmp_path: Path) -> None:
    """One line and exit code 2, while the first goes on; after `kill -9` of the first, the file serves again."""
    settings = {"ROLLOUT_BUDGET_PRIOR_DATA": str(tmp_path), "ROLLOUT_BUDGET_PRIOR_PORT": "0"}
    command = [sys.executable, "-m", "services.prior_api", "serve"]
    with running(tmp_path) as (first, client):
        other = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert other.returncode == 2
        assert other.stderr.splitlines()[-1] == (
            f"services.prior_api: another process serves from {tmp_path / 'prior.db'}: "
            "a SQLite file is for one; several take PostgreSQL"
        )
        assert client.post("/v1/policies/m/evidence", json={"rows": ROWS[:1]}).json()["stored"] == 1
        first.kill()
        first.wait()
    with running(tmp_path) as (again, _):
        assert again.poll() is None


@pytest.mark.services
def test_production_does_not_start_without_keys(tmp_path: Path) -> None:
    """The process ends with the reason, and leaves no key behind."""
    settings = {"ROLLOUT_BUDGET_PRIOR_MODE": "production", "ROLLOUT_BUDGET_PRIOR_DATA": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "services.prior_api"],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode != 0
    assert b"there is no default secret" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_setting() -> None:
    """`--help` answers at once and names the settings with their defaults."""
    command = [sys.executable, "-m", "services.prior_api", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=DEADLINE_S)
    assert b"ROLLOUT_BUDGET_PRIOR_DATABASE_URL" in done.stdout


def test_g20_the_committed_document_is_the_served_one() -> None:
    """`python -m services.prior_api openapi > docs/api/prior.json` brings it up to date."""
    assert (ROOT / "docs" / "api" / "prior.json").read_text() == openapi()


def test_every_error_is_documented_as_a_problem_alone() -> None:
    """Every non-2xx answer of the interface is problem+json and nothing else."""
    paths = {path: methods for path, methods in json.loads(openapi())["paths"].items() if path.startswith("/v1")}
    assert paths
    answers = [operation["responses"] for methods in paths.values() for operation in methods.values()]
    errors = [answer for found in answers for status, answer in found.items() if not status.startswith("2")]
    assert errors
    assert all(list(answer["content"]) == ["application/problem+json"] for answer in errors)


@pytest.mark.services
def test_a_refused_setting_is_named_without_its_value(tmp_path: Path) -> None:
    """One line on standard error, no traceback, and no part of a secret."""
    settings = {"ROLLOUT_BUDGET_PRIOR_KEYS": '{"a": "hunter2"}', "ROLLOUT_BUDGET_PRIOR_DATA": str(tmp_path)}
    command = [sys.executable, "-m", "services.prior_api"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | settings, capture_output=True, check=False, timeout=DEADLINE_S
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"services.prior_api: keys.a: ")
    assert b"hunter2" not in done.stderr
