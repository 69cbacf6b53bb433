"""What breaks a run without a process dying: it says so in one line, what it had stands, the same id goes on (G22, G24).

A full disk, a loss that is no number, a reward that never returns, a data set of unusable prompts.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.tiny import make_policy
from tests.trainer.wiring import TINY, Hearing, Wiring
from trainer import training
from trainer.config import load
from trainer.errors import Diverged, StorageFailed
from trainer.learner.batch import Row, rows
from trainer.loop import run_training
from trainer.metrics import Event, Noticed, Phase, Stepped, Summary, read_metrics

RUN = ("run.steps=3", "checkpoint.every=2", "allocator.price=0", "allocator.k_max=4")
TOLD = {"accuracy", "rollouts", "loss", "grad_norm", "held_out_accuracy", "rollouts_total"}
TMPFS_MB = 24
"""Room for the whole run; what is left is filled when the test wants it full."""

_full: list[re.Pattern[str]] = []
"""Paths that the disk takes nothing of."""


def _look(event: str, values: tuple[Any, ...]) -> None:
    """Refuse what would write, as a full disk does; hooks cannot be taken out again, so this one looks at a list."""
    if not _full or event not in {"open", "os.mkdir"} or not isinstance(values[0], str | os.PathLike):
        return
    reads = event == "open" and isinstance(values[1], str) and not set(values[1]) & set("wax+")
    path = os.fspath(values[0])
    if not reads and isinstance(path, str) and any(pattern.search(path) for pattern in _full):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


sys.addaudithook(_look)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Summary:
    """A run in which nothing breaks."""
    return Wiring().train(tmp_path_factory.mktemp("whole"), cache, *RUN)


@pytest.fixture
def _mended() -> Iterator[None]:
    yield
    _full.clear()


@pytest.mark.usefixtures("_mended")
@pytest.mark.parametrize(
    "place",
    [
        r"/run/\.config\.json",
        r"/rollouts/step-2\.jsonl$",
        r"/weights/\.v2\.draft",
        r"/checkpoints/\.step-2\.draft/",
        r"/checkpoints/step-2/COMPLETE$",
        r"/summary\.json$",
    ],
)
def test_g24_a_full_disk_ends_a_run_that_goes_on_once_there_is_room(
    tmp_path: Path, cache: Path, whole: Summary, place: str
) -> None:
    """Wherever the disk was full, the run that goes on is the run that never was interrupted, and the ledger is exact."""
    wiring = Wiring()
    _full.append(re.compile(place))
    with pytest.raises(
        StorageFailed, match=r"the disk takes no more \(No space left on device.*run\.id = 'run'$"
    ) as told:
        wiring.train(tmp_path, cache, *RUN)
    assert "\n" not in str(told.value)
    _full.clear()
    _goes_on_as(whole, wiring, tmp_path, cache)


def test_g24_a_line_of_metrics_that_found_no_room_is_written_later(tmp_path: Path, cache: Path, whole: Summary) -> None:
    """The checkpoint of step 2 is complete, its line is not: it is told when the run goes on."""
    wiring = Wiring()

    def full(event: Event) -> None:
        if isinstance(event, Stepped) and event.metrics.step == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")

    wiring.told = Hearing(full)
    with pytest.raises(StorageFailed, match=r"metrics\.jsonl"):
        wiring.train(tmp_path, cache, *RUN)
    wiring.told = []
    _goes_on_as(whole, wiring, tmp_path, cache)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk is root's on Linux")
@pytest.mark.parametrize("phase", [Phase(1, "rollouts"), Phase(2, "publishing"), Phase(2, "checkpoint")])
def test_g24_a_real_disk_that_fills_up(tmp_path: Path, cache: Path, whole: Summary, phase: Phase) -> None:
    """A small disk of its own is full to the last byte from a moment of step 2; half a line or file may be left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "none", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this container may not mount")
    try:
        wiring = Wiring()
        wiring.told = Hearing(lambda event: _fill(disk) if event == phase else None)
        with pytest.raises(StorageFailed, match="No space left on device"):
            wiring.train(disk, cache, *RUN)
        (disk / "filler").unlink()
        wiring.told = []
        _goes_on_as(whole, wiring, disk, cache)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - the end of the loop, not of the test


def _goes_on_as(whole: Summary, wiring: Wiring, place: Path, cache: Path) -> None:
    """Go on, and compare with a run in which nothing broke."""
    summary = wiring.train(place, cache, *RUN)
    assert _curve(summary) == _curve(whole)
    assert _weights(summary) == _weights(whole)
    usage = wiring.ledger.sync().get_run("run").usage
    assert (usage.committed, usage.overage, usage.reserved) == (summary.rollouts, 0, 0)


def _curve(summary: Summary) -> list[dict[str, Any]]:
    lines = (summary.directory / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]
    return [row.model_dump(include=TOLD) for row in read_metrics(summary.directory)]


def _weights(summary: Summary) -> bytes:
    return (summary.directory / "weights" / f"v{summary.steps}" / "model.safetensors").read_bytes()


def test_g24_a_loss_that_is_no_number_ends_a_run_that_goes_on(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One such step is left out and said; three in a row end the run in one line; mended, it goes on from there."""
    calls = 0

    def broken(*arguments: Any, **options: Any) -> list[Row]:
        nonlocal calls
        calls += 1
        made = rows(*arguments, **options)
        if calls == 2 or calls >= 4:
            return [Row(row.prompt_ids, row.token_ids, row.logprobs, float("nan")) for row in made]
        return made

    monkeypatch.setattr(training, "rows", broken)
    wiring = Wiring()
    changes = ("run.steps=7", "checkpoint.every=2", "evaluation.every=0")
    with pytest.raises(Diverged, match=r"last 3 steps, up to step 6, .* lower learner\.lr .* run\.id = 'run'$"):
        wiring.train(tmp_path, cache, *changes)
    said = [event.text for event in wiring.told if isinstance(event, Noticed) and "no number" in event.text]
    assert said == [f"The gradient of step {step} is no number; the update was left out." for step in (2, 4, 5, 6)]
    monkeypatch.undo()
    wiring.told.clear()
    summary = wiring.train(tmp_path, cache, *changes)
    lines = read_metrics(summary.directory)[1:]
    assert [line.step for line in lines] == list(range(1, 8))
    assert [line.skipped > 0 for line in lines] == [False, True, False, True, False, False, False]
    usage = wiring.ledger.sync().get_run("run").usage
    assert (usage.committed, usage.overage, usage.reserved) == (summary.rollouts, 0, 0)


GRADE = """
def grade(prompt, completion, answer):
    while completion and ord(completion[0]) % 5 == 0:
        pass
    return float(len(completion) % 2)
"""


def test_g22_a_reward_that_never_returns_stops_nobody(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A user's function hangs on some completions: they are worth nothing, which is said once, and the run is done."""
    reward = tmp_path / "reward.py"
    reward.write_text(GRADE)
    summary = _train(tmp_path, cache, f"task.reward={reward}:grade", "task.reward_timeout_s=0.05")
    assert [row.step for row in read_metrics(summary.directory)] == [0, 1, 2]
    assert len([line for line in caplog.messages if "the reward function gave no outcome" in line]) == 1


def test_g22_empty_and_enormous_prompts_are_left_out_and_said(tmp_path: Path, cache: Path) -> None:
    """Rows that cannot be asked are counted at the start, prompts beyond the model are passed over; the steps are done."""
    path = tmp_path / "problems.jsonl"
    prompts = [*(f"{number}+1=" for number in range(12)), "", "   ", "1+" * 3_000 + "1=", "1+" * 100_000]
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": "1"}) + "\n" for prompt in prompts))
    said: list[str] = []
    summary = _train(
        tmp_path,
        cache,
        "task.name=jsonl",
        f"task.jsonl.path={path}",
        "task.jsonl.held_out_share=0",
        f"policy.path={make_policy(tmp_path / 'policy')}",
        "rollouts.prompts_per_step=12",
        said=said,
    )
    assert [row.groups for row in read_metrics(summary.directory)[1:]] == [12, 12]
    assert len([text for text in said if "left out" in text]) == 2, said


def _train(tmp_path: Path, cache: Path, *changes: str, said: list[str] | None = None) -> Summary:
    """Train two steps with the parts that a user's run has."""

    def hear(event: Event) -> None:
        if said is not None and isinstance(event, Noticed):
            said.append(event.text)

    places = [f"run.output_dir={tmp_path}", f"run.cache_dir={cache}", "run.id=run", "run.steps=2"]
    summary = run_training(load(None, [*TINY, *places, *changes]), on_event=hear)
    assert summary is not None
    return summary
