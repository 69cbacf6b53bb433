"""What is counted, and that counting stays bounded."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from rollout_budget.ledger.base import Account
from rollout_budget.ledger.books import Entry
from services.allocator.metrics import MAX_RUNS, Metrics
from tests.allocator.running import Running


async def samples(allocator: Running) -> dict[tuple[str, tuple[str, ...]], float]:
    text = (await allocator.http.get("/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_rollouts_are_counted_once_by_what_became_of_them(allocator: Running) -> None:
    """Repeated requests count as replays, not as rollouts; the sums are the ledger's."""
    spec = {"run_id": "r", "policy": "p", "k_init": 2, "price": 0}
    calls = [
        ("", spec),
        ("/r/groups/open", {"groups": [{"group_id": name, "prompt_key": "k"} for name in "ab"]}),
        ("/r/groups/observe", {"groups": [{"group_id": "a", "outcomes": [1, 0]}]}),
        ("/r/groups/close", {"groups": [{"group_id": "a", "used": 20}, {"group_id": "b", "used": 1}]}),
    ]
    for path, body in [call for call in calls for _ in range(3)]:
        assert (await allocator.http.post(f"/v1/runs{path}", json=body, headers=allocator.team)).is_success
    found = await samples(allocator)
    usage = (await allocator.http.get("/v1/runs/r", headers=allocator.team)).json()["usage"]
    kinds = {"granted": "granted", "used": "committed", "released": "released", "overage": "overage"}
    for kind, name in kinds.items():
        assert found["rollout_budget_rollouts_total", tuple(sorted(("default", kind, "r")))] == usage[name]
    labels = ("default", "r")
    assert found["rollout_budget_rollouts_extra_total", labels] == usage["granted"] - 4 > 0
    assert found["rollout_budget_rollouts_saved", labels] == usage["saved"] == 2 * 16 - 21
    assert found["rollout_budget_groups_closed_total", labels] == 2
    assert found["rollout_budget_idempotent_replays_total", ()] == 4 + 2 + 4
    assert found["rollout_budget_prior_strength_rollouts", labels] > 0
    assert found["rollout_budget_ledger_duration_seconds_count", ("settle",)] >= 1
    assert found["rollout_budget_decision_duration_seconds_count", ("open",)] == 3


async def test_a_discrepancy_raises_a_metric_and_limits_are_shown(allocator: Running) -> None:
    """The auditor's findings and the teams' budgets are read by the background rounds."""
    headers = await allocator.new_key("x")
    await allocator.http.put("/v1/admin/budgets/x", json={"rollouts": 7, "tokens_per_day": 50}, headers=allocator.admin)
    await allocator.http.post("/v1/runs", json={"run_id": "r", "policy": "p", "k_init": 4}, headers=headers)
    groups = {"groups": [{"group_id": "g", "prompt_key": "k"}]}
    await allocator.http.post("/v1/runs/r/groups/open", json=groups, headers=headers)
    await allocator.service._read_budgets()
    async with allocator.service.database.transaction() as connection:
        await connection.exec_driver_sql("UPDATE accounts SET committed = 1 WHERE run = 'r' AND span = 'total'")
    assert await allocator.service.audit() == 1
    found = await samples(allocator)
    assert found["rollout_budget_limit_rollouts", ("x",)] == 7
    assert found["rollout_budget_in_use_rollouts", ("reserved", "x")] == 4
    assert found["rollout_budget_limit", ("tokens_per_day", "x")] == 50
    assert found["rollout_budget_limit_used", ("rollouts", "x")] == 4
    assert found["rollout_budget_limit_used_ratio", ("rollouts", "x")] == 4 / 7
    assert found["rollout_budget_invariant_violations_total", ()] == 1


def test_g18_ten_thousand_runs_are_a_bounded_number_of_series() -> None:
    """Runs beyond the bound share one label, and none is lost from the sum."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for index in range(10_000):
        metrics.booked(Entry(Account("t", f"run-{index}"), "reserve", "r/g/0/0", 2, "2026-11-22", None))
    counted = [
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "rollout_budget_rollouts_total"
    ]
    assert len(counted) == MAX_RUNS + 1
    assert sum(counted) == 20_000


async def test_g18_unknown_paths_are_one_series(allocator: Running) -> None:
    """A path that matches no route is counted as unmatched."""
    for index in range(50):
        await allocator.http.get(f"/nowhere/{index}")
    found = await samples(allocator)
    assert found["rollout_budget_http_requests_total", ("404", "other", "unmatched")] == 50
