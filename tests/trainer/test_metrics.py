"""What a run says of itself: lines that survive a resume, and listeners that are only told."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped] # no stubs

from trainer.config import load
from trainer.errors import ConfigError
from trainer.metrics import (
    Event,
    Noticed,
    Phase,
    Started,
    StepMetrics,
    Stepped,
    Summary,
    listeners,
    progress_bar,
    read_metrics,
)

QUIET = "logging.progress=false"


def _row(step: int, **changes: object) -> Stepped:
    return Stepped(StepMetrics.model_validate({"step": step, "version": step, **changes}))


def _summary(directory: Path) -> Summary:
    return Summary("run", "ours", directory, 2, 64, 448, 12, 300, 1.5, 0.2, 0.3)


def test_lines_are_written_as_they_come_and_read_back(tmp_path: Path) -> None:
    """One JSON object a step; the summary beside it; other listeners are told the same."""
    heard: list[Event] = []
    with listeners(load(None, [QUIET]), tmp_path, 0, [heard.append]) as tell:
        tell(Started(tmp_path, "ours", 0, 0))
        tell(Phase(0, "rollouts"))
        tell(_row(1, accuracy=0.25, seconds={"rollouts": 1.5}))
        assert [row.step for row in read_metrics(tmp_path)] == [1]
        tell(_row(2, degraded=True, detail="prior away"))
        tell(_summary(tmp_path))
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["accuracy"], first["seconds"], first["degraded"]) == (0.25, {"rollouts": 1.5}, False)
    assert (second["degraded"], second["detail"]) == (True, "prior away")
    assert json.loads((tmp_path / "summary.json").read_text())["accuracy_end"] == 0.3
    assert len(heard) == 5


def test_a_resumed_run_drops_what_it_will_do_again(tmp_path: Path) -> None:
    """Lines after the checkpoint go; a fresh start keeps none."""
    config = load(None, [QUIET])
    with listeners(config, tmp_path, 0) as tell:
        for step in range(4):
            tell(_row(step))
    with listeners(config, tmp_path, 2) as tell:
        tell(_row(3, loss=1.0))
    assert [(row.step, row.loss) for row in read_metrics(tmp_path)] == [(0, None), (1, None), (2, None), (3, 1.0)]
    with listeners(config, tmp_path, 0):
        pass
    with pytest.raises(ConfigError, match="has not measured anything yet"):
        read_metrics(tmp_path)


def test_the_bar_shows_what_matters() -> None:
    """Step, accuracy, rollouts used and saved; notices above it; a word where decisions fell back."""
    console = Console(file=io.StringIO(), force_terminal=True, width=160, record=True)
    with progress_bar(load(None, ["run.rollouts=1000", "run.name=ours"]), console) as tell:
        tell(Started(Path("run"), "ours", 0, 0))
        tell(Phase(0, "rollouts"))
        tell(Noticed("allocator away: connection [refused]"))
        tell(_row(3, accuracy=0.4567, rollouts_total=600, rollouts_saved=-40, degraded=True, fallback=True))
        tell(_summary(Path("run")))
    shown = console.export_text()
    for word in ("ours", "step 3", "accuracy 0.457", "600/1,000", "saved -40", "fallback", "connection [refused]"):
        assert word in shown


def test_without_a_terminal_progress_is_whole_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One a measurement, one every tenth step, notices as they come; nothing is cut at 80 columns, nothing controls."""
    notice = "allocator [gone]: " + "away " * 30
    with listeners(load(None, ["run.rollouts=123456"]), tmp_path, 0) as tell:
        tell(Started(tmp_path, "ours", 0, 0))
        for step in range(1, 12):
            tell(Phase(step, "rollouts"))
            tell(_row(step, accuracy=0.25, rollouts_total=1000 * step, rollouts_saved=7 * step, elapsed_s=1.5 * step))
        tell(_row(12, accuracy=0.5, held_out_accuracy=0.4, rollouts_total=12000, elapsed_s=18.0, degraded=True))
        tell(Noticed(notice))
        tell(_summary(tmp_path))
    assert capsys.readouterr().err.splitlines() == [
        "step 10 · rollouts 10,000/123,456, saved 70 · accuracy 0.250 · 15 s",
        "step 12 · rollouts 12,000/123,456, saved 0 · accuracy 0.500 · held-out 0.400 · degraded · 18 s",
        notice,
    ]


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    """Also the seconds by phase; None is left out."""
    with listeners(load(None, [QUIET, "logging.tensorboard=true"]), tmp_path, 0) as tell:
        tell(_row(1, accuracy=0.5, seconds={"learning": 2.0}))
        tell(_row(2, accuracy=0.75))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(item.step, item.value) for item in events.Scalars("accuracy")] == [(1, 0.5), (2, 0.75)]
    assert [item.value for item in events.Scalars("seconds/learning")] == [2.0]
    assert "held_out_accuracy" not in events.Tags()["scalars"]


def test_wandb_is_asked_for_only_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the message says what to install or to change."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = load(None, [QUIET, "logging.wandb=true"])
    with pytest.raises(ConfigError, match="pip install wandb"), listeners(config, tmp_path, 0):
        pass


def test_an_unfinished_line_is_not_read(tmp_path: Path) -> None:
    """A report of a run that goes on sees whole steps only."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "version": 1}\n{"step": 2, "ver')
    assert [row.step for row in read_metrics(tmp_path)] == [1]


def test_a_measurement_after_a_step_joins_its_row(tmp_path: Path) -> None:
    """A run that ended early measured once more under its last step's number; that step's own figures stay."""
    with listeners(load(None, [QUIET]), tmp_path, 0) as tell:
        tell(_row(1, accuracy=0.25, groups=2, rollouts=8, elapsed_s=1.0, rollouts_total=8, seconds={"learning": 1.0}))
        tell(_row(1, held_out_accuracy=0.5, elapsed_s=2.0, rollouts_total=8, seconds={"evaluation": 1.0}))
    (row,) = read_metrics(tmp_path)
    assert (row.accuracy, row.held_out_accuracy, row.groups, row.rollouts) == (0.25, 0.5, 2, 8)
    assert (row.elapsed_s, row.seconds) == (2.0, {"learning": 1.0, "evaluation": 1.0})


def test_notices_are_said_without_a_bar_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run in a batch job has no bar; that its allocator went away must be read somewhere."""
    with listeners(load(None, ["logging.progress=false"]), tmp_path, 0) as tell:
        tell(Phase(1, "rollouts"))
        tell(Noticed("allocator [gone]: away"))
    assert capsys.readouterr().err == "allocator [gone]: away\n"
