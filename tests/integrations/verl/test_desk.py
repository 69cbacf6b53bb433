"""Outcomes, prompts' keys and the desk, none of which loads verl."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.verl.desk import Desk, Rollout
from rollout_budget.integrations.verl.settings import Settings, key_of


def settings(**given: Any) -> Settings:
    return Settings.of({"rollout_budget": {"run": "r", **given}})


def desk(**given: Any) -> Desk:
    return Desk({"rollout_budget": {"run": "r", "k_init": 3, "k_max": 4, **given}})


def row(uid: str, text: str = "1+1=", **more: Any) -> dict[str, Any]:
    return {"uid": uid, "raw_prompt": [{"role": "user", "content": text}], **more}


SHIFTED = {"low": -1, "high": 1}


@pytest.mark.parametrize(
    ("given", "reward", "told", "outcome"),
    [
        ({}, 0.5, {}, 0.5),
        ({}, 0.5, {"acc": 1.0}, 1.0),
        ({}, 0.5, {"acc": np.float32(0.25)}, 0.25),
        ({"outcome_range": SHIFTED}, -1.7, {"acc": False}, -1.0),
        ({"outcome_range": SHIFTED}, 0.2, {"acc": np.True_}, 1.0),
        ({"outcome": "score"}, 0.5, {"acc": 1.0, "score": 0.75}, 0.75),
        ({"outcome_above": -0.5, "outcome_range": SHIFTED}, -0.4, {"acc": False}, 1.0),
        ({"outcome_above": -0.5}, -0.5, {"acc": True}, 0.0),
    ],
)
def test_outcomes(given: Mapping[str, Any], reward: float, told: Mapping[str, Any], outcome: float) -> None:
    """The declared bound, the named value, `acc`, the reward, in this order; truth values are ends of the range."""
    assert settings(**given).outcome_of(reward, told) == outcome


def test_outcomes_that_are_not_there_or_no_numbers_say_so() -> None:
    with pytest.raises(InvalidInput, match=r"no such name \(acc\)"):
        settings(outcome="score").outcome_of(0.5, {"acc": 1.0})
    with pytest.raises(InvalidInput, match="'42' is no number"):
        settings(outcome="pred").outcome_of(0.5, {"pred": "42"})


@pytest.mark.parametrize(
    ("given", "says"),
    [({"advantage_samples": "first_wave"}, "keeps no order"), ({"k_init": 9, "k_max": 4}, "exceeds")],
)
def test_rules_that_verl_cannot_keep_are_refused(given: Mapping[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        desk(**given)


def test_a_penalty_after_the_decision_is_refused() -> None:
    """Even with a bound for outcomes, with which the estimator alone would take it."""
    with pytest.raises(InvalidInput, match="use_kl_loss"):
        Desk({"use_kl_in_reward": True, "rollout_budget": {"run": "r", "outcome_above": 0.5}})


def test_keys_of_prompts() -> None:
    """Where there is an index, with what it counts within; a text's hash otherwise, the same for the same text."""
    assert key_of({"data_source": "gsm8k", "extra_info": {"split": "train", "index": 0}}) == "gsm8k/train/0"
    assert key_of({"data_source": "gsm8k", "extra_info": None}) is None
    assert key_of({"data_source": "d" * 200, "extra_info": {"index": 0}}) is None

    async def keys() -> list[str]:
        one = desk()
        await one.enter()
        await one.open([row("a"), row("b"), row("c", "2+2="), row("d", extra_info={"index": 5})], 0)
        return [group.prompt.key for group in one._groups.values()]

    a, b, c, d = asyncio.run(keys())
    assert a == b != c
    assert d == "5"


async def test_a_group_is_asked_for_in_waves_and_its_advantages_once() -> None:
    """Rollouts of one reward are one; groups of other trainers' are unknown."""
    one = desk()
    await one.enter()
    await one.open([row("a")], 0)
    assert await one.first("a") == 3
    more = await one.report("a", [Rollout(0.1, {"acc": False}), Rollout(1.0, {"acc": True}), Rollout(0.1)], 0)
    assert more in (0, 1)
    if more:
        assert await one.report("a", [Rollout(1.0, {"acc": True})], 0) == 0
    known = await one.advantages(["a", "elsewhere"])
    assert set(known) == {"a"}
    assert set(known["a"]) == {float(np.float32(0.1)), 1.0}
    assert known["a"][1.0] > 0 > known["a"][float(np.float32(0.1))]
    assert await one.advantages(["a"]) == {}


async def test_reports_of_many_workers_share_calls() -> None:
    """While one call is under way the others gather, and go out as one; each gets its own answer."""
    one = desk(k_init=2, k_max=2)
    await one.enter()
    uids = [f"u{place}" for place in range(20)]
    await one.open([row(uid, uid) for uid in uids], 0)
    calls: list[int] = []
    observe = one._session.observe

    async def counted(groups: Any) -> Any:
        calls.append(len(groups))
        await asyncio.sleep(0)
        return await observe(groups)

    one._session.observe = counted  # type: ignore[method-assign] # counts, and calls the original
    answers = await asyncio.gather(*(one.report(uid, [Rollout(1.0), Rollout(0.0)], 0) for uid in uids))
    assert answers == [0] * len(uids)
    reported = [size for size in calls if size]
    assert reported[0] == 1
    assert len(reported) < len(uids) / 2
    assert len(await one.advantages(uids)) == len(uids)


async def test_an_outcome_outside_its_range_ends_the_training() -> None:
    """The worker's group fails, and the estimator, which asks next, hears the reason."""
    one = desk()
    await one.enter()
    await one.open([row("a")], 0)
    with pytest.raises(InvalidInput, match="outside"):
        await one.report("a", [Rollout(3.0)], 0)
    with pytest.raises(InvalidInput, match="outside"):
        await one.advantages(["a"])


async def test_what_is_open_at_the_end_is_closed() -> None:
    """Grants of groups that nobody drew are given back, so that the run's budget is whole."""
    one = desk()
    await one.enter()
    await one.open([row("a"), row("b")], 0)
    await one.report("a", [Rollout(1.0), Rollout(0.0), Rollout(1.0)], 0)
    await one.leave()
    figures = await one.metrics()
    assert figures["budget/used"] == 3
    assert figures["budget/returned"] >= 3


def test_the_desk_loads_neither_verl_nor_torch() -> None:
    """It is a process of its own on every machine where a training runs."""
    script = "import sys, rollout_budget.integrations.verl.desk; print(sorted({'torch', 'verl', 'ray'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
