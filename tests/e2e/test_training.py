"""Trainings on real servers, as the demo does them: three counts that agree."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollout_budget.client import SyncAllocatorClient
from rollout_budget.wire import Run
from tests.vllm_server import VllmSession
from trainer.config import Config, parse
from trainer.demo import BUDGETED, GRPO, as_team, method_config, reconcile, served
from trainer.launch import Stage, staged
from trainer.loop import run_training
from trainer.metrics import Event, Noticed, Summary
from trainer.servers import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.services, pytest.mark.timeout(900)]

STEPS = 6
PER_STEP = 64


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


def run_of(config: Config, summary: Summary) -> Run:
    """Return a run as the allocator sees it."""
    assert config.allocator.url is not None
    assert config.allocator.key_file is not None
    with SyncAllocatorClient(config.allocator.url, config.allocator.key_file.read_text().strip()) as client:
        return client.get_run(summary.run_id)


def test_ledger_trainer_and_vllm_count_the_same_rollouts(stage: Stage, tmp_path: Path) -> None:
    """The ledger's committed rollouts, the trainer's own count and vLLM's totals are equal, for both demo methods."""
    before = served_now(stage)
    said: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Noticed):
            said.append(event.text)

    configs = [as_team(stage, method_config(stage.config, name, 0, tmp_path)) for name in (BUDGETED, GRPO)]
    runs: list[tuple[Config, Summary]] = []
    for config in configs:
        summary = run_training(config, on_event=hear)
        assert summary is not None
        runs.append((config, summary))
    result = reconcile(runs, served_now(stage) - before)
    assert result.agrees, result
    assert all(account.trainer >= STEPS for account in result.accounts)
    assert [summary.steps for _, summary in runs] == [STEPS, STEPS]
    assert sum("hold the same weights" in text for text in said) == len(runs)
    grpo = run_of(*runs[1]).usage
    assert grpo.committed == 16 * grpo.groups_closed


def served_now(stage: Stage) -> int:
    """Return the completions that the vLLM server has finished so far."""
    count = asyncio.run(served(stage.config.rollouts.urls))
    assert count is not None
    return count
