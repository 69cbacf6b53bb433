"""SkyRL's own registry, trainer and callbacks with our estimator, on real services; no generation, no update."""

from __future__ import annotations

from typing import Any

import pytest

import rollout_budget as rb
from tests.integrations.conftest import Service, Services
from tests.integrations.hooked import python, train
from tests.integrations.trl.running import seen_by

pytestmark = [pytest.mark.services, pytest.mark.timeout(200)]

STEPS, DRAWN = 3, 11


Reports = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def reports(service: Service, services: Services, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Three trainings in one process; the allocator of the last is killed after its first step."""
    python()
    doomed = services.start()
    usual: dict[str, Any] = {"steps": STEPS, "config": [], "rules": {"policy": "skyrl", **service.rules}}
    steps = {"stepwise": True, "config": ["generator.step_wise_trajectories=true"]}
    dead = {"run": "skyrl-dead", "rules": {"policy": "skyrl", **doomed.rules}}
    runs = [{**usual, "run": "skyrl-whole"}, {**usual, **steps, "run": "skyrl-steps"}, {**usual, **dead}]

    def kill(run: str, step: int) -> None:
        if (run, step) == ("skyrl-dead", 1):
            doomed.kill()

    return train("skyrl.training", tmp_path_factory.mktemp("skyrl"), runs, kill)


@pytest.mark.parametrize("run", ["skyrl-whole", "skyrl-steps"])
def test_ragged_groups_get_our_advantages_and_padding_none(service: Service, reports: Reports, run: str) -> None:
    """By SkyRL's uid; the ledger counts rollouts, neither their turns nor what fills the batch up."""
    with rb.SyncAllocatorClient(service.url, service.key) as client:
        usage = client.get_run(run).usage
    assert (usage.committed, usage.reserved, usage.overage) == (STEPS * DRAWN, 0, 0)
    seen = seen_by(service, run)
    for number, step in enumerate(reports[run]["steps"], 1):
        rows = [row for row, last in enumerate(step["last"]) if last and not step["uids"][row].startswith("pad")]
        assert len(rows) == DRAWN < len(step["uids"])
        for uid in {step["uids"][row] for row in rows}:
            mine = [row for row in rows if step["uids"][row] == uid]
            record = seen[f"step{number}-{uid}"]
            assert record["prompt_key"] == f"p{uid}"
            assert record["outcomes"] == [step["rewards"][row] for row in mine]
            gains = [step["advantages"][row][0] for row in mine]
            assert gains == pytest.approx(record["decision"]["advantages"], abs=1e-6)
        for row, uid in enumerate(step["uids"]):
            if uid.startswith("pad"):
                assert set(step["advantages"][row]) == {0.0}
            else:
                first = step["advantages"][row][0]
                assert step["advantages"][row] == pytest.approx([first * bit for bit in step["mask"][row]])
        assert step["log"]["budget/used"] == DRAWN
        assert step["log"]["loss/avg_final_rewards"] is not None


def test_an_allocator_that_dies_costs_no_step(reports: Reports) -> None:
    logs = [step["log"] for step in reports["skyrl-dead"]["steps"]]
    assert logs[0]["budget/fallback_total"] == 0 < logs[-1]["budget/fallback_total"]
    assert len(logs) == STEPS
    for step in reports["skyrl-dead"]["steps"]:
        assert any(any(row) for row in step["advantages"])


def test_rays_workers_get_the_estimator_itself(reports: Reports) -> None:
    """SkyRL pickles its registry for the processes of a training."""
    assert reports["registry"]["pickled"] is True


def test_the_script_of_the_page_gives_skyrls_trainer_a_budget(reports: Reports) -> None:
    assert reports["registry"]["page"] == ["Budget"]
