"""Checkpoints: complete or not counted, and what follows a resume is what would have followed without the stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.tiny import TIMEOUT_S, make_policy, make_rows, on_ranks
from trainer.config import LearnerSection
from trainer.learner import checkpoint
from trainer.learner.fsdp import World, world
from trainer.learner.learner import Learner


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def _learner(policy: Path, where: World, **changes: Any) -> Learner:
    return Learner(policy, LearnerSection.model_validate({"device": "cpu", "lr": 1e-2, **changes}), where, seed=5)


def test_a_resumed_learner_goes_on_bit_for_bit(policy: Path, tmp_path: Path) -> None:
    """Steps 3 and 4 after a resume equal steps 3 and 4 without one: statistics, weights, random states (G24)."""
    changes: dict[str, Any] = {"epochs": 2, "minibatches": 2}
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, **changes)
        for step in range(2):
            learner.step(make_rows(8, seed=step))
        learner.save(tmp_path, 2, {"epoch": [1, 2], "position": 3}, 2)
        drawn = torch.rand(3)
        straight = [learner.step(make_rows(8, seed=step)) for step in (2, 3)]
        expected = {name: value.full_tensor() for name, value in learner.model.state_dict().items()}
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        resumed = _learner(policy, where, **changes)
        found = checkpoint.latest(tmp_path)
        assert found is not None
        assert resumed.load(found) == {"epoch": [1, 2], "position": 3, "step": 2}
        assert torch.equal(torch.rand(3), drawn)
        assert [resumed.step(make_rows(8, seed=step)) for step in (2, 3)] == straight
        for name, value in resumed.model.state_dict().items():
            assert torch.equal(value.full_tensor(), expected[name]), name


def test_only_complete_checkpoints_count_and_old_ones_go(policy: Path, tmp_path: Path) -> None:
    """A folder without its mark is passed over; of the complete ones the newest are kept, by number, not by name."""
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where)
        for step in (8, 9, 10):
            learner.save(tmp_path, step, {}, 2)
    (tmp_path / "step-11").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-11", "step-9"]
    assert checkpoint.latest(tmp_path / "absent") is None


def test_a_process_killed_while_it_saves_leaves_the_checkpoint_before(policy: Path, tmp_path: Path) -> None:
    """Killed with the draft written and not yet in its place: the earlier one is found and read; the draft goes later."""
    on_ranks(1, _killed_while_saving, policy, tmp_path, ends=-signal.SIGKILL)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".step-2.draft", "step-1"]
    found = checkpoint.latest(tmp_path)
    assert found == tmp_path / "step-1"
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where)
        assert learner.load(found) == {"seen": 1, "step": 1}
        learner.step(make_rows(5, seed=2))
        learner.save(tmp_path, 3, {}, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-3"]


def _killed_while_saving(policy: Path, root: Path, where: World) -> None:
    learner = _learner(policy, where)
    learner.step(make_rows(5, seed=1))
    learner.save(root, 1, {"seen": 1}, 2)
    Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign, assignment] # dies there
    learner.save(root, 2, {"seen": 2}, 2)
