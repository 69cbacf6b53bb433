"""tinker-cookbook's own training loop with our groups, on real services; Tinker itself is a coin."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest

import rollout_budget as rb
from tests.integrations.conftest import Service, Services
from tests.integrations.hooked import python, train
from tests.integrations.trl.running import seen_by

pytestmark = [pytest.mark.services, pytest.mark.timeout(200)]

STEPS, PER_STEP = 3, 4


def steps(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [line for line in report["log"] if "budget/used" in line]


Reports = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def reports(service: Service, services: Services, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Five trainings in one process, the page's among them; the allocator of the last is killed after its first step."""
    python()
    doomed = services.start()
    usual = {"policy": "tinker", "k_init": 2, "k_max": 12, "stopping": "osla", **service.rules}
    small = {"k_init": 3, "k_max": 3, "stopping": "fixed", "limits": {"rollouts": 18}}
    place = {"ROLLOUT_BUDGET_URL": service.url, "ROLLOUT_BUDGET_KEY": service.key}
    runs = [
        {"run": "my-tinker-run", "steps": 1, "environment": place},
        {"run": "tinker", "steps": STEPS, "eval_every": 1, "rules": usual},
        {"run": "tinker-cap", "steps": STEPS, "away": "1", "tolerant": True, "rules": {**usual, **small}},
        {
            "run": "tinker-range",
            "steps": STEPS,
            "tolerant": True,
            "rules": {**usual, "outcome_range": {"low": 0, "high": 0.5}},
        },
        {"run": "tinker-dead", "steps": STEPS, "rules": {**usual, **doomed.rules}},
    ]

    def kill(run: str, step: int) -> None:
        if (run, step) == ("tinker-dead", 0):
            doomed.kill()

    return train("tinker.training", tmp_path_factory.mktemp("tinker"), runs, kill)


def test_it_learns_from_groups_of_our_size_and_our_advantages(service: Service, reports: Reports) -> None:
    """What its loss gets is in the allocator's database, prompt by prompt; evaluations are neither ours nor booked."""
    learned = reports["tinker"]["learned"]
    with rb.SyncAllocatorClient(service.url, service.key) as client:
        usage = client.get_run("tinker").usage
    assert (usage.committed, usage.reserved, usage.overage) == (sum(map(len, learned)), 0, 0)
    seen = seen_by(service, "tinker")
    assert set(seen) == {f"step{step}-{place}" for step in range(STEPS) for place in range(PER_STEP)}
    for name, group in seen.items():
        step, place = map(int, name.removeprefix("step").split("-"))
        mine = [one for one in learned[step] if f"User: {3 * place} question" in one["text"]]
        assert group["outcomes"] == answers(mine)
        assert group["decision"]["advantages"] == pytest.approx([one["advantage"] for one in mine], abs=1e-6)
    assert len({len(group["outcomes"]) for group in seen.values()}) > 1
    log = steps(reports["tinker"])
    assert [line["budget/used"] for line in log] == [len(step) for step in learned]
    assert log[0]["env/all/correct"] == pytest.approx(fmean(answers(learned[0])))
    assert any("test/env/all/correct" in line for line in reports["tinker"]["log"])


def answers(learned: list[dict[str, Any]]) -> list[float]:
    return [float("Assistant:yes" in one["text"]) for one in learned]


def test_failures_and_a_budget_that_ends_skip_groups_and_end_no_training(service: Service, reports: Reports) -> None:
    """A group whose rollouts all fail is paid for and skipped; without budget all are, to the last step."""
    report = reports["tinker-cap"]
    drawn = [len(step) for step in report["learned"]]
    assert drawn[0] == 9  # of twelve, three fail
    assert drawn[1] in (3, 6)  # of the six that are left, perhaps three
    assert len(drawn) == 2
    with rb.SyncAllocatorClient(service.url, service.key) as client:
        usage = client.get_run("tinker-cap").usage
    assert (usage.committed, usage.reserved) == (18, 0)
    assert [line["progress/batch"] for line in report["log"] if "progress/batch" in line] == [0, 1, 2]
    assert steps(report)[1]["budget/refused_groups"] == 2


def test_an_allocator_that_dies_costs_no_step(reports: Reports) -> None:
    report = reports["tinker-dead"]
    assert len(report["learned"]) == STEPS
    log = steps(report)
    assert log[0]["budget/fallback_total"] == 0 < log[-1]["budget/fallback_total"]
    for step in report["learned"]:
        assert len(step) >= 2 * PER_STEP
        assert any(one["advantage"] for one in step)


def test_the_script_of_the_page_trains_as_printed(service: Service, reports: Reports) -> None:
    learned = reports["my-tinker-run"]["learned"]
    with rb.SyncAllocatorClient(service.url, service.key) as client:
        usage = client.get_run("my-tinker-run").usage
    assert usage.committed == sum(map(len, learned)) >= 16
    assert len(steps(reports["my-tinker-run"])) == 1


def test_an_outcome_outside_the_range_ends_the_training_also_where_errors_are_forgiven(reports: Reports) -> None:
    """tinker-cookbook skips a group that failed; the next step would be the same, so it is not begun."""
    report = reports["tinker-range"]
    assert "outside" in report["fault"]
    assert {line["progress/batch"] for line in report["log"] if "progress/batch" in line} == {0}
    assert reports["tinker"]["fault"] is None
