"""What the chart tells containers to run, run: the migrations and the allocator on a real PostgreSQL, and its notes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from services.allocator.app import create_app
from services.allocator.settings import Settings
from tests.helm.charts import (
    CHART,
    DATABASE_SECRET,
    DEFAULT,
    NAMESPACE,
    RELEASE,
    Object,
    environment,
    helm,
    pod,
    render,
)
from tests.helm.test_pods import KEYS, SECRETS
from tests.ports import free_port
from tests.postgres import postgres_url
from tests.served import served

__all__ = ["postgres_url"]

PORT = "ROLLOUT_BUDGET_ALLOCATOR_PORT"
START_TIMEOUT_S = 120.0
"""A service needs 3 s to start where nothing else runs, and ten times that on cores which others keep busy."""
KUBECTL = """#!/usr/bin/env bash
case $1 in
  exec) while [[ $1 != -- ]]; do shift; done; shift; exec "$@" ;;
  port-forward) echo "$@" >>forwarded ;;
esac
"""
"""Runs what would run in the pod here, and only records what it should forward."""


def command(spec: Object, folder: Path, **others: str) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a pod's container, with this Python as its `python`."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ROLLOUT_BUDGET")}
    (part,) = spec["containers"]
    assert part["command"][0] == "python"
    return [sys.executable, *part["command"][1:]], variables | environment(spec, SECRETS, folder) | others


@pytest.mark.postgres
@pytest.mark.services
def test_the_job_migrates_and_the_allocator_turns_ready(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With commands, environment and probes as rendered: not ready before the job, ready after, unready again on SIGTERM."""
    monkeypatch.setitem(SECRETS, (DATABASE_SECRET, "allocator-url"), postgres_url)
    objects, port = render(*DEFAULT, "prior.enabled=false"), str(free_port())
    spec = pod(objects, "allocator")
    (part,) = spec["containers"]
    arguments, variables = command(spec, tmp_path, **{PORT: port})
    with subprocess.Popen(arguments, env=variables) as service:
        try:
            url = f"http://127.0.0.1:{port}"
            _until(f"{url}{part['startupProbe']['httpGet']['path']}", 200, service)
            ready = f"{url}{part['readinessProbe']['httpGet']['path']}"
            assert httpx.get(ready).status_code == 503
            migrate, at = command(pod(objects, "migrate"), tmp_path)
            subprocess.run(migrate, env=at, check=True, timeout=120)
            _until(ready, 200, service)
            headers = {"Authorization": f"Bearer {KEYS['admin-key']}"}
            assert httpx.get(f"{url}/v1/admin/teams", headers=headers).json()["teams"] == []
            service.send_signal(signal.SIGTERM)
            _until(ready, 503, service)
        finally:
            service.kill()


def test_the_notes_lead_to_a_first_decision(tmp_path: Path) -> None:
    """Each line as printed, against a real allocator; only kubectl, which has no cluster here, is a stand-in."""
    done = helm("install", RELEASE, str(CHART), "-n", NAMESPACE, "--dry-run=client", "--set", DEFAULT[0])
    if "cluster unreachable" in done.stderr:
        pytest.skip("a helm before version 4 prints notes with a cluster only")
    session = "".join(line + "\n" for line in done.stdout.partition("NOTES:")[2].splitlines() if line.startswith("  "))
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    settings = Settings(data=tmp_path / "allocator", admin_key=SecretStr(KEYS["admin-key"]))
    with served(create_app(settings)) as url:
        secrets = pod(render(*DEFAULT), "allocator")["containers"][0]["volumeMounts"][-1]["mountPath"]
        lines = session.replace("localhost:8100", url).replace(secrets, str(tmp_path))
        environment(pod(render(*DEFAULT), "allocator"), SECRETS, tmp_path)
        path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
        ran = subprocess.run(
            ["bash", "-euc", lines],
            cwd=tmp_path,
            env={"PATH": path, "ROLLOUT_BUDGET_URL": url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout.splitlines()[-1])
    assert answer["groups"][0]["group_id"] == "a"
    assert len(answer["groups"][0]["advantages"]) == 4
    assert (tmp_path / "vision.json").stat().st_mode & 0o077 == 0
    assert (
        tmp_path / "forwarded"
    ).read_text() == f"port-forward -n {NAMESPACE} service/rb-rollout-budget-allocator 8100:8100\n"


def _until(url: str, status: int, service: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        assert service.poll() is None
        try:
            if httpx.get(url).status_code == status:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)  # another process; nothing tells when it is there
    raise AssertionError(f"{url} was not {status} within {START_TIMEOUT_S:g} s")
