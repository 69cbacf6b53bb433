"""A reward function of the user's: its outcomes count, and whatever else it does is worth 0 and stops nothing."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from trainer import rewards
from trainer.errors import ConfigError
from trainer.rewards.user import UserReward
from trainer.rewards.workers import Limits
from trainer.types import Problem

PROBLEM = Problem(key="k", prompt="1+1=", answer="2")
LIMITS = Limits(workers=1, timeout_s=0.25)
SOURCE = """
import os
import time

from neighbour import HALF


def grade(prompt, completion, answer):
    if completion == "loop":
        while True:
            pass
    if completion == "raise":
        raise ValueError("no idea")
    if completion == "exit":
        os._exit(3)
    if completion == "leave":
        raise SystemExit
    if completion == "memory":
        return len(bytearray(2**34))
    if completion == "half":
        return HALF
    if completion == "text":
        return "1"
    if completion == "none":
        return None
    if completion in ("nan", "inf", "2.0", "-0.1"):
        return float(completion)
    return completion == answer and prompt == "1+1="


def sleeper(prompt, completion, answer):
    try:
        while True:
            pass
    except BaseException:
        time.sleep(1000)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "neighbour.py").write_text("HALF = 0.5\n")
    (folder / "my_rewards.py").write_text(SOURCE)
    return folder / "my_rewards.py"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reward(file: Path) -> AsyncIterator[UserReward]:
    others = set(multiprocessing.active_children())
    made = rewards.get(f"{file}:grade", LIMITS)
    assert isinstance(made, UserReward)
    yield made
    await made.close()
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.asyncio(loop_scope="module")
async def test_its_outcomes_are_the_outcomes(reward: UserReward) -> None:
    assert await reward.grade(PROBLEM, ["2", "3", "half"]) == [1.0, 0.0, 0.5]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("completion", "reason", "said"),
    [
        ("loop", "took too long", "took too long"),
        ("raise", "raised", "raised (ValueError: no idea)"),
        ("exit", "crashed", "crashed"),
        ("memory", "raised", "raised (MemoryError"),
        ("leave", "raised", "raised (SystemExit"),
        ("none", "raised", "raised (TypeError"),
        ("text", "not a number", "not a number"),
        ("nan", "not a number", "not a number"),
        ("inf", "outside [0, 1]", "outside [0, 1] (inf)"),
        ("2.0", "outside [0, 1]", "outside [0, 1] (2.0)"),
        ("-0.1", "outside [0, 1]", "outside [0, 1] (-0.1)"),
    ],
)
async def test_anything_else_is_worth_nothing_counted_and_said_once(
    reward: UserReward, caplog: pytest.LogCaptureFixture, completion: str, reason: str, said: str
) -> None:
    """The second time nothing is said, and the next honest completion is graded as before."""
    before = reward.failures.get(reason, 0)
    assert await reward.grade(PROBLEM, [completion, "2"]) == [0.0, 1.0]
    assert reward.failures[reason] == before + 1
    if before == 0:
        assert said in caplog.text
    else:
        assert "reward function" not in caplog.text


async def test_one_that_hears_no_alarm_is_killed_and_replaced(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It catches the alarm and sleeps, which costs no computing: its caller ends it by the clock."""
    monkeypatch.setattr("trainer.rewards.workers.GRACE_S", 0.1)
    made = rewards.get(f"{file}:sleeper", Limits(workers=1, timeout_s=0.1))
    assert isinstance(made, UserReward)
    began = time.monotonic()
    assert await made.grade(PROBLEM, ["2"]) == [0.0]
    assert time.monotonic() - began < 5
    assert made.failures == {"took too long": 1}
    await made.close()


async def test_a_function_of_a_package_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(file.parent), *sys.path])
    made = rewards.get("my_rewards:grade", LIMITS)
    assert await made.grade(PROBLEM, ["2"]) == [1.0]
    await made.close()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (":grade", "write my_package.rewards:grade"),
        ("no_such_package_here:grade", "ModuleNotFoundError: No module named 'no_such_package_here'"),
        ("{folder}/absent.py:grade", "FileNotFoundError"),
        ("{file}:absent", "has no function 'absent'"),
    ],
)
def test_a_path_that_leads_nowhere_stops_the_run_before_it_starts(file: Path, path: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rewards.get(path.format(folder=file.parent, file=file), LIMITS)
    assert told in str(caught.value)
    assert "task.reward" in str(caught.value)
    assert "\n" not in str(caught.value)
