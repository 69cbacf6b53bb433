"""Replays of logs: figures are right where the truth is known, and every trainer's log is read as it is written."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rollout_budget.errors import InvalidInput
from rollout_budget.replay import LoggedGroup, read_logs, replay
from rollout_budget.replay.play import _error, _play
from rollout_budget.replay.report import plot, text
from rollout_budget.wire import Range
from tests.paths import ROOT


def a_log(seed: int, *, versions: int = 12, size: int = 16, wide: bool = True) -> tuple[list[LoggedGroup], list[float]]:
    """A run of recurring prompts, and the success rate behind each of its groups."""
    chance = np.random.default_rng(seed)
    rates = chance.beta(0.8, 1.2, 60) if wide else np.full(60, 0.4)
    groups, truth = [], []
    for version in range(versions):
        for prompt in chance.choice(60, 40, replace=False):
            outcomes = tuple((chance.random(size) < rates[prompt]).astype(float).tolist())
            groups.append(LoggedGroup(f"{version}-{prompt}", str(prompt), version, outcomes))
            truth.append(float(rates[prompt]))
    return groups, truth


def test_errors_measured_on_held_out_outcomes_are_the_errors() -> None:
    """Mean of the estimate over 480 groups against the true squared error of the same baselines: within 3 deviations."""
    groups, truth = a_log(0)
    played = _play(groups, Range(), 1.0)
    estimates = np.array([_error(one.baseline, one.group.outcomes[one.used :]) for one in played])
    errors = np.array([(one.baseline - rate) ** 2 for one, rate in zip(played, truth, strict=True)])
    gap = estimates - errors
    assert abs(gap.mean()) < 3 * gap.std() / np.sqrt(gap.size)
    assert errors.mean() < 0.05


def test_where_a_prior_can_know_something_rollouts_are_saved() -> None:
    """Prompts recur and differ: ours reaches the error of means of 16 with fewer; a lower price never draws less."""
    found = replay(a_log(1)[0])
    assert found.saved is not None
    assert 0.3 < found.saved < 1.0
    assert found.between is not None
    assert found.between[0] <= found.saved <= found.between[1]
    assert all(near.rollouts <= far.rollouts for near, far in pairwise(found.ours))
    assert found.logged_error == pytest.approx(0.16 / 16, rel=0.25)
    late = found.steps[-4:]
    assert sum(step.prior_error for step in late) < 0.5 * sum(step.mean_error for step in late)
    flat = [group for group in a_log(1)[0] if len(set(group.outcomes)) == 1]
    assert (found.wasted, found.without_signal) == (16 * len(flat), len(flat) / found.groups)


def test_a_scale_changes_nothing_but_the_unit() -> None:
    """The same log in {-1, +1}: sizes as before, errors four times as large."""
    groups = a_log(2, versions=4)[0]
    wide = [
        LoggedGroup(one.group, one.key, one.version, tuple(2 * value - 1 for value in one.outcomes)) for one in groups
    ]
    here, there = replay(groups), replay(wide, low=-1.0, high=1.0)
    assert [point.rollouts for point in here.ours] == [point.rollouts for point in there.ours]
    assert there.logged_error == pytest.approx(4 * here.logged_error)


def test_the_page_and_the_picture_say_what_was_found(tmp_path: Path) -> None:
    found = replay(a_log(3)[0])
    page = text(found)
    assert f"{found.groups:,} groups" in page
    assert f"{found.saved:.0%} of the rollouts" in page
    plot(found, tmp_path / "replay.png")
    assert (tmp_path / "replay.png").stat().st_size > 10_000
    with pytest.raises(InvalidInput, match=r"replay\.nothing"):
        plot(found, tmp_path / "replay.nothing")


def test_equally_hard_prompts_are_called_that() -> None:
    page = text(replay([LoggedGroup(f"{n}", f"{n}", 0, (1.0, 0.0, 1.0, 0.0)) for n in range(20)]))
    assert "equally hard" in page


LOGGED = [("a", 0, [1.0, 0.0, 1.0]), ("b", 0, [0.0, 0.0, 0.0]), ("a", 1, [1.0, 1.0, 1.0, 0.0])]
"""Prompt, version, outcomes: what each of the logs below says."""


def test_json_lines_of_rollouts_and_of_groups_are_the_same(tmp_path: Path) -> None:
    whole, single = tmp_path / "whole.jsonl", tmp_path / "single.jsonl"
    names = [f"{prompt}{version}" for prompt, version, _ in LOGGED]
    whole.write_text(
        "".join(
            json.dumps({"group": name, "prompt_key": prompt, "version": version, "outcomes": outcomes}) + "\n"
            for name, (prompt, version, outcomes) in zip(names, LOGGED, strict=True)
        )
    )
    single.write_text(
        "".join(
            json.dumps({"group": name, "prompt_key": prompt, "version": version, "outcome": one}) + "\n"
            for name, (prompt, version, outcomes) in zip(names, LOGGED, strict=True)
            for one in outcomes
        )
    )
    assert read_logs(whole)[0] == read_logs(single)[0]
    assert [group.outcomes for group in read_logs(whole)[0]] == [tuple(outcomes) for _, _, outcomes in LOGGED]


def test_verl_dumps_are_grouped_by_uid_else_by_prompt(tmp_path: Path) -> None:
    """`acc` is the outcome where there is one: the score may be shaped. Steps are files, 2 before 10."""
    for name, uid in (("plain", False), ("uid", True)):
        folder = tmp_path / name
        folder.mkdir()
        for prompt, version, outcomes in LOGGED:
            with (folder / f"{version * 8 + 2}.jsonl").open("a") as file:
                for number, outcome in enumerate(outcomes):
                    line = {"input": prompt, "output": "x", "score": outcome - 0.5, "acc": outcome, "step": version}
                    extra = {"uid": f"{prompt}{version}_{number}_0"} if uid else {}
                    file.write(json.dumps(line | extra) + "\n")
        groups, how = read_logs(folder)
        assert [(group.key, group.version, list(group.outcomes)) for group in groups] == LOGGED
        assert how["format"] == "verl"
    assert len(read_logs(tmp_path / "plain", group_size=2)[0]) == 6


def test_tables_of_trl_are_read_by_their_reward_function(tmp_path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    rows = [(prompt, version, one) for prompt, version, outcomes in LOGGED for one in outcomes]
    table = {
        "step": [version for _, version, _ in rows],
        "prompt": [[{"role": "user", "content": prompt}] for prompt, _, _ in rows],
        "completion": ["x" for _ in rows],
        "correct": [one for _, _, one in rows],
        "advantage": [0.0 for _ in rows],
    }
    parquet.write_table(pa.table(table), tmp_path / "completions_00001.parquet")
    groups, how = read_logs(tmp_path)
    assert [list(group.outcomes) for group in groups] == [outcomes for _, _, outcomes in LOGGED]
    assert groups[0].key == groups[2].key != groups[1].key
    assert how == {"format": "trl", "files": "1", "outcome": "correct"}
    parquet.write_table(pa.table(table | {"length": [1.0] * len(rows)}), tmp_path / "completions_00001.parquet")
    with pytest.raises(InvalidInput, match="correct, length"):
        read_logs(tmp_path)
    assert read_logs(tmp_path, outcome="correct")[0] == groups


def test_slimes_debug_data_is_read_by_group_index(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    for version in (0, 1):
        samples = [
            {"group_index": index, "prompt": prompt, "reward": {"acc": one, "score": 9.0}, "response": "x"}
            for index, (prompt, at, outcomes) in enumerate(LOGGED)
            for one in outcomes
            if at == version
        ]
        torch.save({"rollout_id": version, "samples": samples}, tmp_path / f"rollout_{version}.pt")
    groups = read_logs(tmp_path)[0]
    assert [(group.key, group.version, list(group.outcomes)) for group in groups] == LOGGED


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"group": "a", "prompt_key": "p"}\n', "log.jsonl:1: no field 'outcome'"),
        ('{"group": "a", "prompt_key": "p", "outcome": 1}\nnot json\n', "log.jsonl:2: no JSON object"),
        ('{"group": "a", "prompt_key": "p", "outcome": "much"}\n', "log.jsonl:1: could not convert"),
        ("\n", "no rollout in it"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(InvalidInput, match=said):
        read_logs(tmp_path / "log.jsonl")


def test_what_cannot_be_replayed_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected a file or a folder"):
        read_logs(tmp_path)
    with pytest.raises(InvalidInput, match="3 outcomes"):
        replay([LoggedGroup("a", "a", 0, (1.0, 0.0))])
    with pytest.raises(InvalidInput, match="outside"):
        replay([LoggedGroup("a", "a", 0, (1.0, 0.0, 3.0))], high=1.0)


def test_a_real_log_of_trl_is_read_and_its_shortness_is_said() -> None:
    """Six steps of TRL's own trainer, each prompt twice: rollouts that nothing could verify are left out."""
    groups, how = read_logs(ROOT / "tests" / "integrations" / "logs" / "trl-grpo", outcome="correct")
    assert how["format"] == "trl"
    assert len(groups) == 48
    assert sum(len(group.outcomes) for group in groups) == 350
    assert len({group.key for group in groups}) == 24
    found = replay(groups)
    assert found.recurring == 0.5
    assert found.between is None or found.between[1] - found.between[0] > 0.2
