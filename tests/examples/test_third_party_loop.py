"""The examples of a trainer of one's own, against both services as processes: it learns, and a dead allocator is no end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.paths import ROOT
from tests.ports import free_port

pytestmark = pytest.mark.services
EXAMPLES = [ROOT / "examples" / name for name in ("third_party_loop.py", "plain_http_loop.py")]
MOST_LINES = 60
LINE = re.compile(r"step (\d+): accuracy (\d\.\d+), (\d+) rollouts( alone)?\n")
START_TIMEOUT_S = 120.0
KILLED_AFTER, ALONE_STEPS, SUMS = 10, 2, 25


@contextmanager
def process(module: str, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service as long as the block lasts, unless it is killed before."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}) as service:
        try:
            yield service
        finally:
            service.kill()


def until_ready(service: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a service answers that it is ready."""
    ends = time.monotonic() + START_TIMEOUT_S
    while not ready(port):
        assert service.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.05)


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_small(example: Path) -> None:
    """A page, so that it can be read as a whole."""
    assert len(example.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.timeout(180)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_learns_and_survives_the_allocators_death(tmp_path: Path, example: Path) -> None:
    """The allocator is killed in the middle and comes back; accuracy rises, and the ledger has every rollout."""
    prior_port, port, secret = free_port(), free_port(), "key-of-this-test-0123456789"
    folder = tmp_path / "allocator"
    prior = {
        "ROLLOUT_BUDGET_PRIOR_DATA": str(tmp_path / "prior"),
        "ROLLOUT_BUDGET_PRIOR_PORT": str(prior_port),
        "ROLLOUT_BUDGET_PRIOR_SERVICE_KEYS": f'["{secret}"]',
    }
    settings = {
        "ROLLOUT_BUDGET_ALLOCATOR_PRIOR_URL": f"http://127.0.0.1:{prior_port}",
        "ROLLOUT_BUDGET_ALLOCATOR_PRIOR_KEY": secret,
    }
    serve = ("services.allocator", "serve", "--data", str(folder), "--port", str(port))
    with process("services.prior_api", **prior) as beside:
        with process(*serve, **settings) as allocator:
            until_ready(beside, prior_port)
            until_ready(allocator, port)
            key = (folder / "team.key").read_text().strip()
            url = f"http://127.0.0.1:{port}"
            known = {"ROLLOUT_BUDGET_URL": url, "ROLLOUT_BUDGET_KEY": key, "PYTHONUNBUFFERED": "1"}
            trainer = subprocess.Popen(
                [sys.executable, str(example)], env={**os.environ, **known}, stdout=subprocess.PIPE, text=True
            )
            assert trainer.stdout is not None
            steps = [step(trainer.stdout.readline()) for _ in range(KILLED_AFTER)]
            allocator.kill()
        while sum(alone for _, _, alone in steps) < ALONE_STEPS:
            steps.append(step(trainer.stdout.readline()))
        trainer.send_signal(signal.SIGSTOP)  # however long the start takes, steps are left for afterwards
        with process(*serve, **settings) as again, trainer:
            until_ready(again, port)
            trainer.send_signal(signal.SIGCONT)
            steps += [step(line) for line in trainer.stdout]
            headers = {"Authorization": f"Bearer {key}"}
            usage = httpx.get(f"{url}/v1/budget", headers=headers).json()["usage"]
            learned = until_evidence(f"http://127.0.0.1:{prior_port}/v1/policies/sums", secret)
    assert trainer.returncode == 0
    assert not any(alone for _, _, alone in steps[:KILLED_AFTER])
    assert steps[0][0] < 0.2
    assert steps[-1][0] > 0.8
    assert usage["committed"] + usage["overage"] == sum(rollouts for _, rollouts, _ in steps)
    assert usage["groups_closed"] == SUMS * len(steps)
    assert usage["reserved"] == 0
    assert 0 < learned <= SUMS * len(steps), "the prior service heard of outcomes"


def until_evidence(url: str, key: str) -> int:
    """Return the rows that the prior service has of the policy, once there are some: they come in the background."""
    ends = time.monotonic() + START_TIMEOUT_S
    while True:
        answer = httpx.get(url, headers={"Authorization": f"Bearer {key}", "Rollout-Budget-Team": "default"})
        if answer.status_code == 200:
            return int(answer.json()["rows"])
        assert time.monotonic() < ends, answer.text
        time.sleep(0.05)


def step(line: str) -> tuple[float, int, bool]:
    """Return accuracy, rollouts and whether they were drawn without the allocator."""
    found = LINE.fullmatch(line)
    assert found, line
    return float(found[2]), int(found[3]), found[4] is not None
