"""Which prompts a step draws, and how many."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import load
from trainer.prompts import EXPECTED_AUTO, PromptSampler, StepSize
from trainer.types import Problem


def _pool(size: int) -> list[Problem]:
    return [Problem(key=f"p{index}", prompt=f"{index}", answer="") for index in range(size)]


@given(size=st.integers(1, 20), counts=st.lists(st.integers(1, 25), min_size=1, max_size=30), seed=st.integers(0, 5))
def test_epochs_are_whole_and_steps_distinct(size: int, counts: list[int], seed: int) -> None:
    """No step holds a prompt twice, and no prompt is more than one epoch ahead of another."""
    sampler = PromptSampler(_pool(size), seed=seed)
    drawn: Counter[str] = Counter({problem.key: 0 for problem in _pool(size)})
    for count in counts:
        step = [problem.key for problem in sampler.take(count)]
        assert len(step) == min(count, size) == len(set(step))
        drawn.update(step)
        assert max(drawn.values()) - min(drawn.values()) <= 2
    assert max(drawn.values()) <= -(-sum(drawn.values()) // size) + 1


@given(size=st.integers(1, 12), before=st.lists(st.integers(1, 14), max_size=8), after=st.lists(st.integers(1, 14)))
def test_a_restored_sampler_goes_on(size: int, before: list[int], after: list[int]) -> None:
    """Its state survives JSON, in the middle of an epoch and where two meet."""
    sampler = PromptSampler(_pool(size), seed=1)
    for count in before:
        sampler.take(count)
    restored = PromptSampler(_pool(size), seed=1)
    restored.restore(json.loads(json.dumps(sampler.state())))
    assert [restored.take(count) for count in after] == [sampler.take(count) for count in after]


def test_seeds_order_the_pool_differently() -> None:
    """The same seed repeats itself, another does not."""
    first, again, other = (PromptSampler(_pool(50), seed=seed).take(50) for seed in (1, 1, 2))
    assert first == again != other


def test_smaller_groups_buy_more_prompts() -> None:
    """A step's budget over the recent mean group size, which follows what was seen."""
    size = StepSize.of(load(None, ["rollouts.per_step=256", "allocator.k_init=4", "allocator.k_max=16"]))
    assert size.mean_group == 8
    assert size.next(None) == 32
    size.saw(groups=32, rollouts=128)
    assert size.mean_group == 4.0
    assert size.next(None) == 64
    later = StepSize.of(load(None, ["rollouts.per_step=256"]))
    later.restore(size.state())
    for one in (size, later):
        for _ in range(30):
            one.saw(groups=32, rollouts=256)
        assert one.mean_group == pytest.approx(8.0, abs=0.01)
        one.saw(groups=64, rollouts=192)
        assert one.mean_group == pytest.approx(7.0, abs=0.01)
        for _ in range(30):
            one.saw(groups=64, rollouts=256)
    size.saw(groups=0, rollouts=0)
    assert size.next(None) == 64


def test_the_runs_limit_bounds_the_last_step() -> None:
    """Prompts for what remains, and at least one, whose groups the ledger cuts."""
    size = StepSize.of(load(None, ["allocator.stopping=fixed", "allocator.k_init=4", "allocator.k_max=16"]))
    assert size.mean_group == 16
    assert size.next(100) == 6
    assert size.next(3) == 1


def test_a_fixed_number_of_prompts_is_kept() -> None:
    """Where asked for, whatever the groups cost, but for what remains."""
    size = StepSize.of(load(None, ["rollouts.prompts_per_step=10", "allocator.k_init=auto"]))
    assert size.mean_group == (EXPECTED_AUTO * 16) ** 0.5
    size.saw(groups=10, rollouts=160)
    assert size.next(None) == 10
    assert size.next(32) == 2
