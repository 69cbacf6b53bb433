"""Steps of verl's own trainer with groups of the allocator's size: `drill.py` on real services."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import rollout_budget as rb
from rollout_budget.wire import RolloutCounts, RunPatch
from tests.integrations.conftest import Services
from tests.integrations.verl.drill_names import PROMPTS, RUN, STEPS
from tests.integrations.verl.running import HERE, LIMIT_S, at, banners, booked, environment, page_lines, python, written
from tests.paths import ROOT
from tests.vllm_server import TINY
from trainer.policy import character_tokenizer, demo_model

DRAWN = ("first", "again", "restored", "failing")
"""Steps before the budget ends."""
pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@dataclass(frozen=True, slots=True)
class Drilled:
    """What verl had after each step, what the allocator had before it was killed, and verl's log."""

    steps: dict[str, Any]
    usage: RolloutCounts
    groups: list[dict[str, Any]]
    log: list[dict[str, Any]]
    printed: str

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return a step's rollouts, without rows that pad."""
        return [row for row in self.steps[name]["rows"] if not row["padding"]]

    def logged(self, name: str) -> dict[str, Any]:
        return self.log[STEPS.index(name)]


@pytest.fixture(scope="module")
def drilled(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Drilled:
    """One run of all steps; the budget ends before the step `spent`, the allocator before `away`."""
    interpreter = python()
    service, folder = services.start(), tmp_path_factory.mktemp("verl")
    settings = {
        "model": str(model(folder / "model")),
        "scoring": str(ROOT / "tests" / "integrations" / "verl" / "scoring.py"),
        "report": str(folder / "report.json"),
        "lines": page_lines(),
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    command = ["timeout", str(LIMIT_S), interpreter, "-m", f"{HERE}.drill", str(folder / "settings.json")]
    log = folder / "log.jsonl"
    variables = environment(**at(service), VERL_FILE_LOGGER_PATH=str(log))
    usage, groups = None, []
    with (
        (folder / "out.log").open("w") as out,
        subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True
        ) as process,
        rb.SyncAllocatorClient(service.url, service.key) as client,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        for line in process.stdout:
            if line == "done failing\n":
                usage, groups = client.get_run(RUN).usage, booked(service, RUN)
                client.patch_run(RUN, RunPatch(limits=rb.RunLimits(rollouts=usage.committed)))
            elif line == "done spent\n":
                service.kill()
            if line.startswith("done "):
                process.stdin.write("\n")
                process.stdin.flush()
    assert process.returncode == 0, (folder / "out.log").read_text()[-4000:]
    assert usage is not None
    steps, printed = json.loads((folder / "report.json").read_text()), (folder / "out.log").read_text()
    return Drilled(steps, usage, groups, written(log), printed)


def model(folder: Path) -> Path:
    """Write a tiny model that verl can read the shape of, its tokenizer with a chat template."""
    tokenizer = character_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    demo_model(TINY, tokenizer).save_pretrained(folder)
    return folder


def by_uid(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        assert row["key"].startswith(row["uid"] + "_")
        found[row["uid"]].append(row)
    return dict(found)


def test_verl_loads_the_plug_in_by_itself_and_it_says_so_once(drilled: Drilled) -> None:
    """Through the entry point, in the first process and silently in Ray's."""
    (said,) = banners(drilled.printed)
    assert "estimator 'rollout_budget' is loaded, allocator: http://" in said


def test_the_ledger_counts_what_verl_learns_from(drilled: Drilled) -> None:
    """Four steps with groups of different sizes: every rollout in verl's batches is committed, and one that failed.

    verl's validation, which draws through the same manager, is in nobody's budget.
    """
    learned = [row for name in DRAWN for row in drilled.rows(name)]
    assert (drilled.usage.committed, drilled.usage.reserved, drilled.usage.overage) == (len(learned) + 1, 0, 0)
    assert drilled.steps["validation"] == PROMPTS
    sizes = {len(rows) for name in ("first", "again") for rows in by_uid(drilled.rows(name)).values()}
    assert len(sizes) > 1
    assert len(drilled.steps["first"]["rows"]) % 16 == 0
    numbers = [int(row["key"].split("_")[1]) for row in next(iter(by_uid(drilled.rows("first")).values()))]
    assert sorted(numbers) == list(range(len(numbers)))


def test_more_rollouts_of_a_prompt_follow_its_first(drilled: Drilled) -> None:
    """Some group got a second wave, as the allocator's record of its grants says, and verl has all of both."""
    sizes = {
        uid: len(rows) for name in ("first", "restored", "failing") for uid, rows in by_uid(drilled.rows(name)).items()
    }
    waves = {one["key"]["group_id"]: one["grants"] for one in drilled.groups if one["key"]["group_id"] in sizes}
    several = [uid for uid, grants in waves.items() if len(grants) > 1 and uid in sizes]
    assert several
    assert any(sizes[uid] == sum(waves[uid]) for uid in several)


def test_advantages_are_the_allocators_whatever_order_verl_puts_rows_in(drilled: Drilled) -> None:
    """Row by row: reward less the baseline that the allocator's decision has for that reward; the same for all tokens.

    The reward is shaped (longer is worse), the outcome is `acc`.
    """
    closed = {(one["key"]["group_id"], one["key"]["attempt"]): one for one in drilled.groups}
    for uid, rows in by_uid(drilled.rows("first")).items():
        decision = closed[uid, 0]["decision"]
        rewards = [base + gain for base, gain in zip(decision["baselines"], decision["advantages"], strict=True)]
        expected = sorted(zip(rewards, decision["advantages"], strict=True))
        found = sorted((row["reward"], row["advantages"][0]) for row in rows)
        assert [pair[0] for pair in found] == pytest.approx([pair[0] for pair in expected], abs=1e-6)
        assert [pair[1] for pair in found] == pytest.approx([pair[1] for pair in expected], abs=1e-6)
        assert sorted(closed[uid, 0]["outcomes"]) == sorted(float(row["reward"] > 0.5) for row in rows)
    for row in drilled.rows("first"):
        assert set(row["mask"]) == {1}
        assert len(set(row["advantages"])) == 1
        assert row["equal"]


def test_rows_that_pad_a_batch_teach_nothing_and_are_not_booked(drilled: Drilled) -> None:
    """A batch is padded to a multiple of its mini-batch with rows under an id of their own."""
    padding = [row for name in STEPS for row in drilled.steps[name]["rows"] if row["padding"]]
    assert padding
    assert {gain for row in padding for gain in row["advantages"]} == {0.0}
    assert not {row["uid"] for row in padding if row["uid"].startswith("pad")} & {
        one["key"]["group_id"] for one in drilled.groups
    }


def test_uids_that_come_again_are_further_attempts(drilled: Drilled) -> None:
    """As verl itself re-issues them after a restart: drawn anew, booked beside what was drawn before."""
    again = by_uid(drilled.rows("again"))
    assert set(again) == set(by_uid(drilled.rows("first")))
    for uid, rows in again.items():
        attempts = sorted(one["key"]["attempt"] for one in drilled.groups if one["key"]["group_id"] == uid)
        assert len(attempts) == 2
        last = [one for one in drilled.groups if one["key"]["group_id"] == uid and one["key"]["attempt"] == attempts[1]]
        assert len(last[0]["outcomes"]) == len(rows)


def test_groups_that_were_finished_before_a_restart_are_learned_from(drilled: Drilled) -> None:
    """They wait in verl's queue, and the books of the process that drew them are gone: the others' mean stands in."""
    for rows in by_uid(drilled.rows("restored")).values():
        rewards = [row["reward"] for row in rows]
        expected = [one - (sum(rewards) - one) / (len(rewards) - 1) for one in rewards]
        assert [row["advantages"][0] for row in rows] == pytest.approx(expected, abs=1e-6)


def test_prompts_are_told_apart_by_the_data_sets_index(drilled: Drilled) -> None:
    """One key per prompt, from data source, part and `extra_info.index`; the same in every step."""
    keys = {one["prompt_key"] for one in drilled.groups}
    assert keys == {f"drill/train/{place}" for place in range(PROMPTS)}


def test_a_rollout_that_fails_is_booked_and_the_others_are_learned_from(drilled: Drilled) -> None:
    """What is there of a failed group is kept by verl, and so by the books."""
    groups = by_uid(drilled.rows("failing"))
    seen = {one["key"]["group_id"]: one for one in drilled.groups if one["key"]["group_id"] in groups}
    assert sum(one["closed"]["committed"] for one in seen.values()) == sum(map(len, groups.values())) + 1
    assert all(len(seen[uid]["outcomes"]) == len(rows) for uid, rows in groups.items())


def test_a_budget_that_is_gone_stops_drawing_and_not_the_training(drilled: Drilled) -> None:
    """Each prompt gets one blank token, marked as padding for verl's figures, with the advantage 0."""
    rows = drilled.steps["spent"]["rows"]
    blank = [row for row in rows if not row["uid"].startswith("pad")]
    assert len(blank) == PROMPTS
    assert all(row["padding"] and row["mask"] == [1] and row["advantages"] == [0.0] for row in blank)
    assert drilled.logged("spent")["budget/refused_groups"] == PROMPTS
    assert drilled.logged("spent")["budget/used"] == 0


def test_an_allocator_that_dies_costs_no_step(drilled: Drilled) -> None:
    """The last step runs with nobody to ask, by the same rules, and the log says so."""
    rows = drilled.rows("away")
    assert len(by_uid(rows)) == PROMPTS
    assert any(row["advantages"][0] != 0.0 for row in rows)
    assert drilled.logged("away")["budget/fallback_total"] > 0
    assert drilled.logged("away")["budget/used"] == len(rows)


def test_figures_stand_in_verls_own_log(drilled: Drilled) -> None:
    """Beside each step's own, and equal to verl's count of rollouts."""
    assert [entry["training/global_step"] for entry in drilled.log] == list(range(1, len(STEPS) + 1))
    for name in ("first", "again"):
        assert drilled.logged(name)["budget/used"] == len(drilled.rows(name))
    assert drilled.logged("failing")["budget/used"] == len(drilled.rows("failing")) + 1
    assert drilled.logged("first")["budget/fallback_total"] == 0
