"""TRL's own `GRPOTrainer` with our baselines, on real services; and its table of completions as a log to replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

import rollout_budget as rb
from tests.integrations.conftest import Service
from tests.integrations.trl.running import python, seen_by, train
from tests.vllm_server import export_model

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

STEPS, PER_STEP, SIZE = 6, 64, 8


def test_trl_trains_on_our_advantages_and_the_ledger_counts_its_samples(service: Service, tmp_path: Path) -> None:
    """Rows of TRL's table, group by group, against the allocator's database: outcomes and advantages are equal."""
    python()
    model = export_model(tmp_path / "model", 0, seed=0)
    settings = {"model": str(model), "steps": STEPS, "per_step": PER_STEP, "run": "trl-classic"}
    rules = {"policy": "tiny-classic", **service.rules}
    report = train("train_classic", tmp_path, {**settings, "rules": rules})
    assert report["steps"] == STEPS
    table = completions(tmp_path / "out" / "completions")
    with rb.SyncAllocatorClient(service.url, service.key) as client:
        usage = client.get_run("trl-classic").usage
    assert (usage.committed, usage.reserved, usage.overage) == (len(table), 0, 0)
    assert len(table) == STEPS * PER_STEP

    groups = list(seen_by(service, "trl-classic").values())
    groups.sort(key=lambda group: [int(part) for part in group["key"]["group_id"][1:].split("-")])
    for place, group in enumerate(groups):
        rows = table[place * SIZE : (place + 1) * SIZE]
        verified = [row for row in rows if row["correct"] is not None]
        assert [row["correct"] for row in verified] == group["outcomes"]
        advantages = group["decision"]["advantages"] if verified else []
        assert [row["advantage"] for row in verified] == pytest.approx(advantages, abs=1e-6)
        assert {row["advantage"] for row in rows if row not in verified} <= {0.0}
        assert {f"item {group['prompt_key'][1:]}:"} == {row["prompt"] for row in rows}
    assert any(
        max(group["outcomes"]) == min(group["outcomes"]) != group["prior"] for group in groups if group["outcomes"]
    )
    figures = [line for line in report["log"] if "loss" in line]
    assert [line["budget/used"] for line in figures] == [PER_STEP] * STEPS
    first = [row["correct"] for row in table[:PER_STEP] if row["correct"] is not None]
    assert figures[0]["rewards/correct/mean"] == pytest.approx(sum(first) / len(first))


def completions(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all of TRL's tables, by step."""
    files = sorted(folder.glob("completions_*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]
