"""What is counted, and that counting stays bounded."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from rollout_budget.ledger.base import Account
from rollout_budget.ledger.books import Counts, Entry
from rollout_budget.wire import Decision, Ingredients
from services.allocator.database import standing
from services.allocator.database.standing import OTHER, Line, Standing
from services.allocator.metrics import IDLE_S, MAX_RUNS, Labels, Metrics, worth_of_last
from tests.allocator.running import Running, running


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
    assert found["rollout_budget_ledger_duration_seconds_count", ("settle",)] >= 1
    assert found["rollout_budget_decision_duration_seconds_count", ("open",)] == 3


async def test_every_process_shows_what_a_run_has_learned(allocator: Running) -> None:
    """One that never served the run too, and after a change by another: figures are the database's, as of the last read."""
    spec = {"run_id": "r", "policy": "p", "k_init": 2, "price": 0.25}
    opening = {"groups": [{"group_id": "a", "prompt_key": "k"}]}
    for path, body in (("", spec), ("/r/groups/open", opening)):
        assert (await allocator.http.post(f"/v1/runs{path}", json=body, headers=allocator.team)).is_success
    other, shown = Metrics(CollectorRegistry()), []
    for price in (0.25, 0.5):
        await allocator.http.patch("/v1/runs/r", json={"price": price}, headers=allocator.team)
        async with allocator.service.database.snapshot() as connection:
            other.standing(await standing.read(connection, MAX_RUNS))
        await allocator.service._read_budgets()
        ours = (await samples(allocator))["rollout_budget_price", ("default", "r")]
        theirs = other.registry.get_sample_value("rollout_budget_price", {"team": "default", "run": "r"})
        shown.append((ours, theirs))
    assert shown == [(0.25, 0.25), (0.5, 0.5)]
    assert (await samples(allocator))["rollout_budget_prior_strength_rollouts", ("default", "r")] > 0


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
    with capture_logs() as lines:
        assert await allocator.service.audit() == 1
    (line,) = (line for line in lines if line["event"].startswith("a counter differs"))
    assert (line["team"], line["run"], line["counted"], line["entries"]) == ("x", "r", 1, 0)
    assert await allocator.service.audit() == 1  # still wrong: found again, and not counted again
    found = await samples(allocator)
    assert found["rollout_budget_limit_rollouts", ("x",)] == 7
    assert found["rollout_budget_in_use_rollouts", ("reserved", "x")] == 4
    assert found["rollout_budget_limit", ("tokens_per_day", "x")] == 50
    assert found["rollout_budget_limit_used", ("rollouts", "x")] == 4
    assert found["rollout_budget_limit_used_ratio", ("rollouts", "x")] == 4 / 7
    assert found["rollout_budget_invariant_violations_total", ()] == 1


async def test_teams_near_a_limit_are_shown_first(tmp_path: Path, any_database: str) -> None:
    """Of more teams than are shown, those that an alert must see: a share in any unit and period, no limit last."""
    limits: dict[str, dict[str, object]] = {
        "a-far": {"rollouts": 1_000},
        "b-day": {"rollouts": 1_000, "rollouts_per_day": 8},
        "c-zero": {"tokens": 0},
        "d-idle": {"gpu_seconds_per_month": 5.0},
        "e-none": {},
        "other": {"rollouts": 16},
    }
    async with running(tmp_path, any_database) as allocator:
        for team, given in limits.items():
            headers = await allocator.new_key(team)
            await allocator.http.put(f"/v1/admin/budgets/{team}", json=given, headers=allocator.admin)
            await allocator.http.post("/v1/runs", json={"run_id": "r", "policy": "p", "k_init": 4}, headers=headers)
            if team not in ("c-zero", "d-idle"):
                groups = {"groups": [{"group_id": "g", "prompt_key": "k"}]}
                await allocator.http.post("/v1/runs/r/groups/open", json=groups, headers=headers)
        async with allocator.service.database.snapshot() as connection:
            today = time.strftime("%Y-%m-%d", time.gmtime())
            near = await standing.nearest(connection, today, 10)
            few = await standing.nearest(connection, today, 2)
        assert near == ["c-zero", "b-day", "other", "a-far", "d-idle"]
        assert few == near[:2]
        await allocator.service._read_budgets()
        found = await samples(allocator)
        assert found["rollout_budget_limit_used_ratio", ("b-day", "rollouts_per_day")] == 0.5
        assert found["rollout_budget_limit_used_ratio", ("other", "rollouts")] == 0.25
        assert found["rollout_budget_in_use_rollouts", ("e-none", "reserved")] == 4


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


def test_g18_ten_thousand_runs_of_the_ledger_are_a_bounded_number_of_series() -> None:
    """Runs that have no line of their own come as one line of their team, and many such teams as one."""
    registry = CollectorRegistry()
    lines = [Line(f"team-{index}", f"run-{index}", "p", Counts(granted=2)) for index in range(MAX_RUNS)]
    lines += [Line(f"team-{index}", OTHER, OTHER, Counts(granted=3)) for index in range(10_000)]
    metrics = Metrics(registry)
    for _ in range(2):  # what was shown before is taken back, not added to
        metrics.standing(Standing(lines, {}, [], 7))
    counted = [
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "rollout_budget_usage_rollouts" and sample.labels["kind"] == "granted"
    ]
    assert len(counted) <= 2 * MAX_RUNS + 1
    assert sum(counted) == 2 * MAX_RUNS + 3 * 10_000
    assert registry.get_sample_value("rollout_budget_evidence_waiting_rows") == 7


def test_g18_labels_go_from_runs_that_are_idle_to_new_ones() -> None:
    """Not before an hour without any count; whoever keeps counting keeps its labels; what is dropped is told once."""
    now, dropped = [0.0], []
    labels = Labels(2, dropped=lambda team, run: dropped.append((team, run)), clock=lambda: now[0])
    assert [labels.of("t", run) for run in "abc"] == [("t", "a"), ("t", "b"), (OTHER, OTHER)]
    now[0] = IDLE_S - 1
    labels.of("t", "a")
    now[0] = IDLE_S
    assert labels.of("t", "c") == ("t", "c")
    assert labels.of("t", "b") == (OTHER, OTHER)
    assert labels.of("t", "a") == ("t", "a")
    assert dropped == [("t", "b")]


def test_g18_a_run_without_labels_has_no_series_left() -> None:
    """All of its series go, of whatever kind; those of the run that takes its place begin at 0."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics._labels = Labels(1, idle_s=0.0, dropped=metrics._forget)
    for run in ("old", "new"):
        metrics.booked(Entry(Account("t", run), "reserve", "r/g/0/0", 2, "2026-11-22", None, extra=True))
        metrics.booked(Entry(Account("t", run), "close", "r/g/0/0", 0, "2026-11-22", None, reference=16))
        metrics._opened(1, ("t", run))
    shown = {sample.labels.get("run") for family in registry.collect() for sample in family.samples}
    assert shown - {None} == {"new"}


async def test_the_ledgers_figures_are_read_run_by_run(any_database: str, tmp_path: Path) -> None:
    """Two runs of their own and two that share a line, unfinished ones first; the sum is the ledger's, on both databases."""
    async with running(tmp_path, any_database) as allocator:
        for run in "abcd":
            spec = {"run_id": run, "policy": f"p{run}", "k_init": 4, "limits": {"rollouts": 50, "tokens": 900}}
            group = {"group_id": "g", "prompt_key": "k"}
            await allocator.http.post("/v1/runs", json=spec, headers=allocator.team)
            opened = await allocator.http.post(
                f"/v1/runs/{run}/groups/open", json={"groups": [group]}, headers=allocator.team
            )
            assert opened.is_success
        closing = {"groups": [{"group_id": "g", "used": 3, "tokens": 70, "seconds": 1.5}]}
        await allocator.http.post("/v1/runs/b/groups/close", json=closing, headers=allocator.team)
        for run in "acd":
            await allocator.http.post(f"/v1/runs/{run}/finish", headers=allocator.team)
        async with allocator.service.database.snapshot() as connection:
            found = await standing.read(connection, 2)
            everything = await standing.read(connection, 10)
        usage = (await allocator.http.get("/v1/usage", headers=allocator.team)).json()["rows"][0]["counts"]
    assert {line.run: line.policy for line in found.lines} == {"b": "pb", "d": "pd", OTHER: OTHER}
    assert {line.run for line in everything.lines} == set("abcd")
    for lines in (found.lines, everything.lines):
        assert sum(line.counts.granted for line in lines) == usage["granted"] == 16
        assert sum(line.counts.released for line in lines) == usage["released"] == 13
    assert set(found.records) == {("default", "b"), ("default", "d")}
    limits = {(one.place[1], one.name): (one.limit, one.used) for one in found.limits}
    assert limits == {
        ("b", "rollouts"): (50, 3), ("b", "tokens"): (900, 70), ("d", "rollouts"): (50, 0), ("d", "tokens"): (900, 0),
    }  # fmt: skip


async def test_what_closed_groups_came_to_is_counted_once(allocator: Running) -> None:
    """Extended, decided here or not, the prior's weight and the last rollout's worth: at the close, not at its repeat."""
    spec = {"run_id": "r", "policy": "p", "k_init": 2, "price": 0}
    calls = [
        ("", spec),
        ("/r/groups/open", {"groups": [{"group_id": name, "prompt_key": "k"} for name in "abc"]}),
        ("/r/groups/observe", {"groups": [{"group_id": "a", "outcomes": [1, 0]}]}),
        ("/r/groups/close", {"groups": [{"group_id": "a", "used": 2}, {"group_id": "b", "used": 1}]}),
        ("/r/groups/close", {"groups": [{"group_id": "c", "used": 0}]}),
    ]
    decided: list[Decision] = []
    for path, body in [call for call in calls for _ in range(2)]:
        answer = await allocator.http.post(f"/v1/runs{path}", json=body, headers=allocator.team)
        assert answer.is_success
        if path.endswith("observe"):
            decided.append(Decision.model_validate(answer.json()["groups"][0]))
    found = await samples(allocator)
    labels = ("default", "r")
    assert found["rollout_budget_groups_opened_total", labels] == 3
    assert found["rollout_budget_groups_extended_total", labels] == 1
    assert found["rollout_budget_groups_undecided_total", labels] == 1  # b: c drew nothing
    assert found["rollout_budget_group_stops_total", (decided[0].reason,)] == 1
    assert (
        found["rollout_budget_prior_weight_count", labels]
        == found["rollout_budget_last_rollout_worth_count", labels]
        == 1
    )
    assert found["rollout_budget_prior_weight_sum", labels] == pytest.approx(1 - decided[0].weight)
    assert found["rollout_budget_last_rollout_worth_sum", labels] == pytest.approx(worth_of_last(decided[0]))
    for lock in ("transaction", "run", "team"):
        assert found["rollout_budget_ledger_wait_seconds_count", (lock,)] >= 6


def test_the_worth_of_the_last_rollout_is_the_squared_error_that_it_took_off() -> None:
    """For an error of c/(m + k): c/(m + k - 1) - c/(m + k). Unknown without an error, or where nothing was known before."""
    c, m, k = 0.2, 3.0, 4

    def decision(error: float | None, strength: float, drawn: int) -> Decision:
        seen = Ingredients(prior=0.5, mean=0.5, k=drawn, strength=strength, standard_error=error)
        return Decision(
            group_id="g", action="stop", more=0, reason="k_max", baseline=0.5, weight=0.5, trusted=True,
            ingredients=seen, baselines=[], advantages=[],
        )  # fmt: skip

    worth = worth_of_last(decision((c / (m + k)) ** 0.5, m, k))
    assert worth == pytest.approx(c / (m + k - 1) - c / (m + k))
    for unknown in (decision(None, m, k), decision(0.1, 0.0, 1), decision(0.1, m, 0)):
        assert worth_of_last(unknown) is None


async def test_g18_unknown_paths_are_one_series(allocator: Running) -> None:
    """A path that matches no route is counted as unmatched."""
    for index in range(50):
        await allocator.http.get(f"/nowhere/{index}")
    found = await samples(allocator)
    assert found["rollout_budget_http_requests_total", ("404", "other", "unmatched")] == 50
