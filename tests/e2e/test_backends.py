"""Whole trainings on a real vLLM server by every way that weights travel on CPUs, on-policy and ahead of the learner."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rollout_budget.client import RecordedAllocator
from tests.trainer.test_weights_vllm import pool_of
from tests.vllm_server import VllmSession
from trainer.config import load
from trainer.loop import run_training
from trainer.metrics import Event, Noticed, read_metrics
from trainer.servers import ServerProcess
from trainer.weights.filesystem import FilesystemPublisher

pytestmark = [pytest.mark.vllm, pytest.mark.services, pytest.mark.timeout(600)]

STEPS = 4


@pytest.mark.parametrize(
    ("backend", "staleness"), [("filesystem", 2), ("gloo", 0), ("gloo", 1), ("lora", 0), ("lora", 1)]
)
async def test_a_training_by_each_way_of_weights(
    vllm: ServerProcess, vllm_session: VllmSession, tmp_path: Path, backend: str, staleness: int
) -> None:
    """All steps are done, server and learner agree on log-probabilities, no token is too old, the ledger is exact."""
    async with pool_of(vllm.url, "base") as pool:
        await FilesystemPublisher(pool).publish(vllm_session.model, 0)  # whatever earlier tests have left
    config = load(
        None,
        [
            f"run.output_dir={tmp_path}",
            f"run.steps={STEPS}",
            "run.id=run",
            f"policy.path={vllm_session.model}",
            "task.arithmetic.size=60",
            "task.arithmetic.held_out_size=8",
            f'rollouts.urls=["{vllm.url}"]',
            "rollouts.per_step=32",
            "rollouts.max_tokens=24",
            f"rollouts.max_staleness={staleness}",
            "learner.importance=truncated",
            f"learner.lora.rank={8 if backend == 'lora' else 0}",
            f"weights.backend={backend}",
            "evaluation.every=2",
            "logging.progress=false",
        ],
    )
    said: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Noticed):
            said.append(event.text)

    summary = await asyncio.to_thread(run_training, config, on_event=hear)
    assert summary is not None
    rows = read_metrics(summary.directory)[1:]
    assert [row.step for row in rows] == list(range(1, STEPS + 1))
    assert any("hold the same weights" in text for text in said) or staleness > 0
    ages = [row.staleness_max for row in rows if row.staleness_max is not None]
    assert 0 <= max(ages) <= staleness
    mismatches = [row.mismatch for row in rows if row.staleness_max == 0 and row.mismatch is not None]
    assert max(mismatches, default=0.0) < 1e-3
    ledger = await RecordedAllocator.restored(summary.directory / "allocator.jsonl")
    usage = (await ledger.get_run("run")).usage
    assert (usage.committed, usage.overage, usage.reserved) == (summary.rollouts, 0, 0)
