"""Decisions of this process: the run's rules, from what it has seen of the run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.client.fallback import Memory
from rollout_budget.client.journal import Entry
from rollout_budget.errors import InvalidInput
from rollout_budget.wire import CloseGroup, ObserveGroup, OpenGroup, Range, RunSpec, SuppliedPrior

SPEC = RunSpec(run_id="r", policy="p", k_init=4)


def closed(memory: Memory, seen: list[float], *, prior: float = 0.5, **close: object) -> Entry:
    """A group as it stands when it is closed."""
    opening = OpenGroup(group_id="g", prompt_key="k", prior=SuppliedPrior(value=prior))
    opened = memory.open([opening], lease_s=60.0)[0]
    body = CloseGroup.model_validate({"group_id": "g", "used": len(seen), **close})
    return Entry(opening, 60.0, opened, observed=ObserveGroup(group_id="g", outcomes=seen), asked=body, closing=body)


def test_a_fixed_first_wave_is_granted_whatever_was_learned() -> None:
    opened = Memory(SPEC).open([OpenGroup(group_id=name, prompt_key=name) for name in "ab"], lease_s=60.0)
    assert [(group.grant, group.prior, group.reason) for group in opened] == [(4, 0.5, "local_fallback")] * 2


def test_an_automatic_first_wave_shrinks_with_trust() -> None:
    """As the service's would: a prior that proved right needs fewer rollouts beside it."""
    memory = Memory(SPEC.model_copy(update={"k_init": "auto"}))
    group = OpenGroup(group_id="g", prompt_key="k", prior=SuppliedPrior(value=0.5))
    before = memory.open([group], lease_s=60.0)[0].grant
    memory.learn([closed(memory, [1.0, 0.0, 1.0, 0.0])] * 500)
    assert 1 <= memory.open([group], lease_s=60.0)[0].grant < before


def test_only_first_waves_are_learned_from() -> None:
    """What was drawn because of earlier outcomes would bias the pooled figures."""
    memory, other = Memory(SPEC), Memory(SPEC)
    memory.learn([closed(memory, [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])])
    other.learn([closed(other, [1.0, 1.0, 0.0, 0.0])])
    assert memory.reliability == other.reliability
    assert memory.reliability.running_mean == 0.5


def test_discarded_and_empty_groups_teach_nothing() -> None:
    memory = Memory(SPEC)
    memory.learn([closed(memory, [1.0] * 4, discard=True), closed(memory, []), Entry()])
    assert memory.reliability.groups == 0


def test_final_outcomes_take_the_place_of_those_observed() -> None:
    memory = Memory(SPEC)
    memory.learn([closed(memory, [0.0] * 4, outcomes=[1.0] * 4)])
    assert memory.reliability.running_mean == 1.0


def test_groups_without_any_spread_are_decided_all_the_same() -> None:
    """A run whose outcomes were all equal has a within-group variance near 0."""
    memory = Memory(SPEC)
    memory.learn([closed(memory, [1.0] * 4, prior=1.0)] * 3000)
    decision = memory.decide([(closed(memory, [1.0] * 4, prior=1.0), ObserveGroup(group_id="g", outcomes=[1.0] * 4))])[
        0
    ]
    assert decision.advantages == pytest.approx([0.0] * 4, abs=1e-6)


def test_a_prior_outside_the_range_is_the_caller_s_mistake() -> None:
    with pytest.raises(InvalidInput):
        Memory(SPEC).open([OpenGroup(group_id="g", prompt_key="k", prior=SuppliedPrior(value=1.5))], lease_s=60.0)


@given(st.floats(-10, 10), st.floats(0.001, 10))
def test_rounding_at_the_ends_of_any_range_is_no_mistake(low: float, width: float) -> None:
    """`low + (high - low)` is not always `high`: a prior of 1 on the unit scale may come back a little above."""
    outcome_range = Range(low=low, high=low + width)
    memory = Memory(SPEC.model_copy(update={"outcome_range": outcome_range}))
    group = memory.open([OpenGroup(group_id="g", prompt_key="k")], lease_s=60.0)[0]
    top = float(outcome_range.core().from_unit(1.0))
    seen = ObserveGroup(group_id="g", outcomes=[outcome_range.high] * 4)
    body = CloseGroup(group_id="g", used=4)
    entry = Entry(opened=group.model_copy(update={"prior": top}), observed=seen, asked=body, closing=body)
    memory.learn([entry])
    assert memory.decide([(entry, seen)])[0].advantages == pytest.approx([0.0] * 4, abs=1e-6)
    assert memory.open([OpenGroup(group_id="h", prompt_key="k")], lease_s=60.0)[0].prior <= outcome_range.high
