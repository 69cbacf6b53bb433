"""TRL's own asynchronous GRPO trainer on real servers, its group sizes and advantages decided by our allocator."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import rollout_budget as rb
from tests.integrations.conftest import Service, Services
from tests.integrations.trl.running import python, seen_by, train
from tests.vllm_server import VllmSession
from trainer.servers import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.services, pytest.mark.timeout(300)]

STEPS, PER_STEP = 6, 16


@pytest.fixture
def settings(vllm: ServerProcess, vllm_session: VllmSession) -> dict[str, Any]:
    """Of a training of the test policy on the session's vLLM server."""
    python()
    return {"model": str(vllm_session.model), "vllm": vllm.url, "steps": STEPS, "per_step": PER_STEP}


def logged(report: dict[str, Any], name: str) -> list[float]:
    """Return what TRL logged under a name, step by step."""
    return [line[name] for line in report["log"] if name in line and "loss" in line]


def test_the_ledger_and_trl_count_the_same_and_groups_are_ragged(
    settings: dict[str, Any], service: Service, tmp_path: Path
) -> None:
    """Step count, rollouts, outcomes and advantages: TRL's own figures against the allocator's ledger and database."""
    rules = {"policy": "tiny", "k_max": 8, **service.rules}
    report = train("train_async", tmp_path, {**settings, "run": "async", "rules": rules})
    assert report["steps"] == STEPS
    with rb.SyncAllocatorClient(service.url, service.key) as client:
        usage = client.get_run("async").usage
    assert usage.committed == report["taken"] + report["dropped"] + report["left"] >= STEPS * PER_STEP
    assert (usage.reserved, usage.overage) == (0, 0)

    groups = seen_by(service, "async")
    outcomes = [one for group in groups.values() for one in group["outcomes"]]
    rewards = [reward for reward in report["rewards"] if not math.isnan(reward)]
    assert sorted(outcomes) == sorted(rewards)
    assert 0 < len(rewards) < len(report["rewards"]), "some completions could not be verified"
    for sample in report["waiting"]:
        group = groups[f"g{sample['group']}"]
        assert sample["advantage"] in [*group["decision"]["advantages"], 0.0]
        assert sample["version"] == group["policy_version"]
    sizes = {len(group["outcomes"]) for group in groups.values()}
    assert max(sizes) > min(sizes)
    assert logged(report, "ratio")[0] == pytest.approx(1.0, abs=1e-3), "TRL's log-probabilities are vLLM's"
    assert sum(logged(report, "budget/group/k_mean")) > 0
    assert sum(logged(report, "budget/fallback_total")) == 0
    assert report["notices"] == []


def test_an_allocator_killed_in_the_middle_stops_nothing(
    settings: dict[str, Any], services: Services, tmp_path: Path
) -> None:
    """SIGKILL after the second step: all steps are made, by the same rules here, and TRL's log says how often."""
    doomed = services.start()

    def kill(step: int) -> None:
        if step == 2:
            doomed.kill()

    rules = {"policy": "tiny", "k_max": 8, **doomed.rules}
    report = train("train_async", tmp_path, {**settings, "run": "killed", "rules": rules}, kill)
    assert report["steps"] == STEPS
    fallbacks = logged(report, "budget/fallback_total")
    assert fallbacks[0] == 0
    assert sum(fallbacks) > 0
    assert report["notices"][0].startswith("away: ")


def test_a_budget_that_is_gone_ends_the_training_and_raises_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    """40 rollouts last for two steps of 16: the third is filled with samples that move nothing, and is the last."""
    rules = {"policy": "tiny", "k_max": 8, "limits": {"rollouts": 40}}
    report = train("train_async", tmp_path, {**settings, "run": "short", "rules": rules, "patience_s": 0.5})
    assert report["steps"] == 3
    rewards = logged(report, "rewards/correct")
    assert len(report["rewards"]) == 40
    assert all(0 <= reward <= 1 for reward in rewards)
