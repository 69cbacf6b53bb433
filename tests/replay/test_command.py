"""`rollout-budget replay` as a shell would run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rollout_budget.cli.main import main
from tests.replay.test_replay import a_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of JSON lines."""
    path = tmp_path / "log.jsonl"
    lines = [
        {"group": one.group, "prompt_key": one.key, "version": one.version, "outcomes": one.outcomes}
        for one in a_log(1, versions=6)[0]
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_it_reports_and_draws(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page and the JSON say the same; the picture is there."""
    picture = tmp_path / "replay.png"
    assert main(["replay", "--logs", str(log), "--plot", str(picture)]) == 0
    page = capsys.readouterr().out
    assert picture.stat().st_size > 10_000
    assert main(["replay", "--logs", str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"{found['groups']} groups, {found['rollouts']:,} rollouts" in page
    assert f"{found['saved']:.0%} of the rollouts" in page
    assert found["reading"] == {"format": "jsonl", "files": "1", "outcome": "outcome"}


def test_what_it_cannot_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--logs", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    for name in ("dark.jsonl", "dark.parquet", "dark.pt"):
        (tmp_path / name).write_bytes(b"\xff\xfe")
        assert main(["replay", "--logs", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert name in said
        assert said.count("\n") == 1
