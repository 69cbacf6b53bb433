"""The advantage estimator in verl's own registry and functions, with the real services: `contract.py`."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest

import rollout_budget as rb
from rollout_budget.wire import BaselinesRequest
from tests.integrations.conftest import Service
from tests.integrations.verl.running import HERE, LIMIT_S, at, banners, booked, environment, python, written
from tests.paths import ROOT

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@dataclass(frozen=True, slots=True)
class Contract:
    """What verl got, what was printed, and verl's log."""

    report: dict[str, Any]
    printed: str
    log: list[dict[str, Any]]

    def gains(self, batch: str) -> list[list[float]]:
        rows: list[list[float]] = self.report[batch]["advantages"]
        return rows


@pytest.fixture(scope="module")
def contract(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Contract:
    interpreter, folder = python(), tmp_path_factory.mktemp("contract")
    log = folder / "log.jsonl"
    done = subprocess.run(
        [interpreter, "-m", f"{HERE}.contract", str(folder / "report.json")],
        cwd=ROOT,
        env=environment(**at(service), VERL_USE_EXTERNAL_PLUGINS="none", VERL_FILE_LOGGER_PATH=str(log)),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Contract(json.loads((folder / "report.json").read_text()), done.stderr, written(log))


def test_the_plug_in_can_be_left_out_fails_aloud_and_can_be_named(contract: Contract, service: Service) -> None:
    """Entry points off: nothing is registered or said. Broken: one line says so, where verl would say nothing. Named: there."""
    assert contract.report["loaded"] == {"left out": False, "broken": False, "named": True}
    assert contract.report["module"] == "rollout_budget.integrations.verl.estimator"
    before, _, rest = contract.printed.partition("-- broken\n")
    broken, _, named = rest.partition("-- named\n")
    assert [len(banners(part)) for part in (before, broken, named)] == [0, 1, 1]
    assert "not loaded, verl goes on without it: ModuleNotFoundError" in banners(broken)[0]
    assert service.url in banners(named)[0]
    assert "VERL_USE_EXTERNAL_PLUGINS=none" in banners(named)[0]


def test_advantages_are_the_allocators_row_by_row(contract: Contract, service: Service) -> None:
    """Shaped rewards less the baselines of their outcomes; the same on each of a rollout's own tokens, 0 elsewhere."""
    groups = {one["key"]["group_id"]: one for one in booked(service, "verl-classic")}
    assert set(groups) == {"a", "b", "alone", "c"}
    rows = contract.gains("first")
    for uid, places in (("a", range(4)), ("b", range(4, 8)), ("alone", range(8, 9))):
        expected = groups[uid]["decision"]["advantages"]
        assert [rows[place][0] for place in places] == pytest.approx(expected, abs=1e-6)
    assert all(row[0] == row[1] == row[2] and row[3] == 0.0 for row in rows)
    assert contract.report["first"]["same"]
    assert contract.report["first"]["type"] == "torch.float32"


def test_outcomes_are_told_from_shaped_rewards_by_the_declared_bound(contract: Contract, service: Service) -> None:
    """Right with a penalty, 0.25, counts as right; on the unit scale of the database."""
    groups = {one["key"]["group_id"]: one for one in booked(service, "verl-classic")}
    assert groups["a"]["outcomes"] == [1.0, 0.0, 1.0, 1.0]
    assert groups["b"]["outcomes"] == [0.0] * 4


def test_a_group_of_one_and_a_group_without_difference_have_the_prior(contract: Contract, service: Service) -> None:
    """The single rollout's advantage is reward less what its prior comes to; equal rewards still teach.

    What a prior comes to is the prior itself, recalibrated once other groups of the service have shown how far it is off.
    """
    with rb.SyncAllocatorClient(service.url, service.key) as client:
        (alone,) = client.baselines("verl-classic", BaselinesRequest(group_ids=["alone"])).groups
    groups = {one["key"]["group_id"]: one for one in booked(service, "verl-classic")}
    assert contract.gains("first")[8][0] == pytest.approx(1.0 - alone.baselines[0], abs=1e-6)
    assert alone.baselines[0] == pytest.approx(2.0 * groups["alone"]["prior"] - 1.0, abs=0.1)
    assert contract.gains("second")[0][0] > 0.0


def test_rows_that_pad_get_nothing_and_are_in_no_group(contract: Contract, service: Service) -> None:
    """With an id of their own or with another's: advantage 0, and the group is as large as it was."""
    assert contract.gains("first")[9:] == [[0.0] * 4] * 2
    sizes = {one["key"]["group_id"]: len(one["outcomes"]) for one in booked(service, "verl-classic")}
    assert sizes == {"a": 4, "b": 4, "alone": 1, "c": 4}


def test_the_ledger_has_verls_rollouts_at_verls_size(contract: Contract, service: Service) -> None:
    """The run declares the first batch's largest group as its size: nothing is beyond a grant, nothing stays held."""
    with rb.SyncAllocatorClient(service.url, service.key) as client:
        run = client.get_run("verl-classic")
    assert (run.usage.committed, run.usage.reserved, run.usage.overage) == (13, 0, 0)
    assert (run.spec.k_init, run.spec.k_max, run.spec.stopping) == (4, 4, "fixed")
    versions = {one["key"]["group_id"]: one["policy_version"] for one in booked(service, "verl-classic")}
    assert versions == {"a": 0, "b": 0, "alone": 0, "c": 1}
    assert contract.report["first"]["same"]


def test_figures_stand_beside_those_of_a_step_and_not_of_a_validation(contract: Contract) -> None:
    """In the file that verl's logger writes."""
    first, validation, second = contract.log
    assert (first["budget/used"], second["budget/used"]) == (9, 4)
    assert first["training/global_step"] == 1
    assert set(validation) == {"val-core/acc"}


def test_the_session_ends_with_the_trainings_log_and_no_other(contract: Contract) -> None:
    """Another log of the same process may end, or be collected, at any time."""
    assert (contract.report["kept"], contract.report["left"]) == (True, True)


def test_columns_that_a_newer_verl_passes_are_used(contract: Contract, service: Service) -> None:
    """`acc` is then the outcome and the data set's index the key, as the open change of verl would allow."""
    (group,) = booked(service, "passed")
    assert group["outcomes"] == [1.0, 0.0]
    assert group["prompt_key"] == "set/train/7"
    assert contract.report["passed"] == pytest.approx(group["decision"]["advantages"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no run", "+algorithm.rollout_budget.run=NAME"),
        ("kl", "use_kl_loss=True"),
        ("both", "not both"),
        ("rule", "estimator"),
        ("range", "2.0 lies outside the outcome range"),
    ],
)
def test_faults_of_the_declaration_say_what_to_do(contract: Contract, name: str, says: str) -> None:
    assert says in contract.report["faults"][name]
