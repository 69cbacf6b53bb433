"""Trainings on real servers: three counts that agree, and services that die in the middle (G22).

A real vLLM server, prior service and allocator serve all tests of this module; each training is a run of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from rollout_budget.client import SyncAllocatorClient
from rollout_budget.wire import Run
from tests.vllm_server import VllmSession, child_of
from trainer.config import Config, parse
from trainer.demo import BUDGETED, GRPO, as_team, method_config, reconcile, served
from trainer.launch import ALLOCATOR, PRIOR, Stage, allocator_service, staged
from trainer.loop import run_training
from trainer.metrics import Event, Noticed, StepMetrics, Stepped, Summary, read_metrics
from trainer.servers import ServerProcess, ServerSpec

pytestmark = [pytest.mark.vllm, pytest.mark.services, pytest.mark.timeout(900)]

STEPS = 6
PER_STEP = 64
READY_WITHIN_S = 120.0


@pytest.fixture
def stage(vllm: ServerProcess, vllm_session: VllmSession, tmp_path: Path) -> Iterator[Stage]:
    """Fresh services beside the session's vLLM server, whose policy is trained."""
    config = parse(
        {
            "run": {
                "rollouts": None,
                "steps": STEPS,
                "output_dir": str(tmp_path),
                "cache_dir": str(tmp_path / "cache"),
            },
            "task": {"arithmetic": {"size": 60, "held_out_size": 20, "levels": [1, 2]}},
            "policy": {"path": str(vllm_session.model)},
            "rollouts": {"urls": [vllm.url], "per_step": PER_STEP, "max_tokens": 6},
            "evaluation": {"every": 0, "prompts": 20},
            "logging": {"progress": False},
        }
    )
    with staged(config, tmp_path / "servers", vllm_session.model, print) as ready:
        yield ready


class Witness:
    """Listens to a training: keeps its notices, and acts after given steps."""

    def __init__(self, after: Mapping[int, Callable[[], object]] | None = None) -> None:
        self.notices: list[str] = []
        self._after = dict(after or {})

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        if isinstance(event, Noticed):
            self.notices.append(event.text)
        if isinstance(event, Stepped) and event.metrics.step in self._after:
            self._after.pop(event.metrics.step)()


def train(config: Config, witness: Witness) -> tuple[Summary, list[StepMetrics]]:
    """Run a training to its end and return its summary and its steps."""
    summary = run_training(config, on_event=witness)
    assert summary is not None
    return summary, [row for row in read_metrics(summary.directory) if row.step > 0]


def run_of(config: Config, summary: Summary) -> Run:
    """Return a run as the allocator sees it."""
    assert config.allocator.url is not None
    assert config.allocator.key_file is not None
    with SyncAllocatorClient(config.allocator.url, config.allocator.key_file.read_text().strip()) as client:
        return client.get_run(summary.run_id)


def kill(process: ServerProcess) -> None:
    """Kill a service with SIGKILL and wait until it is gone."""
    service = child_of(process)
    os.kill(service, signal.SIGKILL)
    while Path(f"/proc/{service}").exists():
        time.sleep(0.05)


def start_again(spec: ServerSpec, port: int) -> subprocess.Popen[bytes]:
    """Start a service on the port and the files that it had, and return once it is ready."""
    env = {name: value.replace("{port}", str(port)) for name, value in spec.env.items()}
    process = subprocess.Popen(spec.command, env={**os.environ, **env})
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        try:
            if httpx.get(f"http://127.0.0.1:{port}{spec.health_path}", timeout=5.0).is_success:
                return process
        except httpx.TransportError:
            time.sleep(0.2)


def test_ledger_trainer_and_vllm_count_the_same_rollouts(stage: Stage, tmp_path: Path) -> None:
    """The ledger's committed rollouts, the trainer's own count and vLLM's totals are equal, for both demo methods."""
    before = served_now(stage)
    witness = Witness()
    configs = [as_team(stage, method_config(stage.config, name, 0, tmp_path)) for name in (BUDGETED, GRPO)]
    runs = [(config, train(config, witness)[0]) for config in configs]
    result = reconcile(runs, served_now(stage) - before)
    assert result.agrees, result
    assert all(account.trainer >= STEPS for account in result.accounts)
    assert [summary.steps for _, summary in runs] == [STEPS, STEPS]
    assert sum("hold the same weights" in notice for notice in witness.notices) == len(runs)
    grpo = run_of(*runs[1]).usage
    assert grpo.committed == 16 * grpo.groups_closed


def served_now(stage: Stage) -> int:
    """Return the completions that the vLLM server has finished so far."""
    count = asyncio.run(served(stage.config.rollouts.urls))
    assert count is not None
    return count


def test_g22_training_goes_on_when_the_prior_service_is_killed(stage: Stage) -> None:
    """Every step is done; those after the death say that they are degraded, and the ledger is exact."""
    prior = stage.processes[PRIOR]
    summary, steps = train(stage.config, Witness({2: lambda: kill(prior)}))
    assert [row.step for row in steps] == list(range(1, STEPS + 1))
    assert [row.degraded for row in steps] == [False, False] + [True] * (STEPS - 2)
    assert not any(row.fallback for row in steps)
    assert all(row.detail for row in steps[2:])
    usage = run_of(stage.config, summary).usage
    assert (usage.committed, usage.overage, usage.reserved) == (summary.rollouts, 0, 0)


def test_g22_training_goes_on_when_the_allocator_is_killed_and_the_ledger_is_right_again(
    stage: Stage, tmp_path: Path
) -> None:
    """Steps without the allocator are decided here and say so; once it is back, it has booked every rollout once."""
    allocator = stage.processes[ALLOCATOR]
    assert stage.config.prior.url is not None
    assert stage.config.prior.key_file is not None
    assert allocator.port is not None
    spec = allocator_service(tmp_path / "servers" / "allocator", stage.config.prior.url, stage.config.prior.key_file)
    again: list[subprocess.Popen[bytes]] = []
    port = allocator.port
    witness = Witness({2: lambda: kill(allocator), 4: lambda: again.append(start_again(spec, port))})
    try:
        summary, steps = train(stage.config, witness)
        run = run_of(stage.config, summary)
    finally:
        for process in again:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
    assert [row.step for row in steps] == list(range(1, STEPS + 1))
    assert [row.fallback for row in steps[:4]] == [False, False, True, True]
    assert any("allocator away" in notice for notice in witness.notices)
    assert any("allocator back" in notice for notice in witness.notices)
    assert run.status == "finished"
    assert run.usage.reserved == 0
    assert run.usage.committed + run.usage.overage == summary.rollouts
