"""The paced price: solves what it says, keeps to its bounds, and meets a budget; demand agrees with real replays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.budgets.spending import RULES, Fixed, Paced, by_worth, spend
from benchmarks.budgets.world import REGIMES, Run, draw
from benchmarks.estimators import families
from rollout_budget import stopping
from rollout_budget.groups import Groups
from rollout_budget.pacing import PRICES, Horizon, Pacing, demand, solve
from rollout_budget.pacing.state import MOST_CHANGE
from rollout_budget.reliability import Reliability
from rollout_budget.wire.pacing import PRICED

falls = st.lists(st.floats(0.0, 1e6), min_size=PRICES.size, max_size=PRICES.size).map(
    lambda values: np.array(sorted(values, reverse=True))
)


def world(seed: int = 0, steps: int = 60, size: int = 32, regime: str = "stationary") -> Run:
    return draw(families.synthetic("uniform", seed), REGIMES[regime], np.random.default_rng(seed), steps, size)


@given(falls, st.floats(0.0, 2e6))
def test_the_solved_price_draws_the_target(curve: np.ndarray, target: float) -> None:
    """Between the ends of the curve; past them it is the end of the grid."""
    price = solve(curve, target)
    assert PRICES[0] <= price <= PRICES[-1]
    drawn = float(np.interp(np.log(price), np.log(PRICES), curve))
    if target >= curve[0]:
        assert price == PRICES[0]
    elif target < curve[-1]:
        assert price == PRICES[-1]
    else:
        assert drawn <= target + 1e-6 * (1.0 + curve[0])


@given(falls, st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_more_money_never_means_a_higher_price(curve: np.ndarray, one: float, other: float) -> None:
    assert solve(curve, max(one, other)) <= solve(curve, min(one, other))


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(-100, 10**6), st.integers(1, 20), falls),
        min_size=1,
        max_size=12,
    )
)
def test_the_price_is_finite_and_moves_by_a_bounded_factor(
    steps: list[tuple[int, int, int, np.ndarray]],
) -> None:
    """Whatever the demand, the budget and the numbers of steps; steps past the last count as the last."""
    state, usual = Pacing(), 1 / 256
    for step, left, groups, curve in steps:
        if not state.begins(step):
            assert step <= state.step
            continue
        before = usual if state.price is None else state.price
        state = state.begin(step, Horizon(10, left), usual).opens(groups)
        if state.price is not None:
            assert 0.0 < state.price < 1e3
            assert 1 / MOST_CHANGE - 1e-9 <= state.price / before <= MOST_CHANGE + 1e-9
        state = state.closes(groups, curve)


def test_without_a_limit_or_without_a_closed_group_the_usual_price_holds() -> None:
    state = Pacing().begin(3, Horizon(10, 100), 0.1).opens(4)
    assert state.price is None
    assert state.begin(4, Horizon(10, 100), 0.1).price is None
    assert state.closes(4, np.ones(PRICES.size)).begin(4, None, 0.1).price is None


@pytest.mark.parametrize("price", [2.0**-10, 2.0**-8, 2.0**-6, 2.0**-4])
def test_demand_at_the_price_paid_is_what_was_drawn(price: float) -> None:
    """An independent run of waves draws exactly as many as the replay of its outcomes says, at its own price."""
    run, rules = world(), replace(RULES, price=price)
    place = int(np.argmin(np.abs(PRICES - price)))
    assert PRICES[place] == price
    part = slice(0, 512)
    state = Reliability().update(run.drawn(slice(512, 1024), np.full(512, 4)))
    _, sizes = by_worth(rules, run, part, state, 10**9)
    assert demand(rules, run.drawn(part, sizes), state)[place] == sizes.sum()


def test_demand_at_other_prices_is_close_to_what_would_have_been_drawn() -> None:
    """Replayed from groups drawn at one price: nearly exact above it, within 15% at a quarter of it."""
    run, part = world(), slice(0, 1024)
    state = Reliability().update(run.drawn(slice(1024, 1900), np.full(876, 4)))
    _, sizes = by_worth(replace(RULES, price=2.0**-8), run, part, state, 10**9)
    found = demand(RULES, run.drawn(part, sizes), state)
    for price, tolerance in ((2.0**-6, 0.02), (2.0**-10, 0.15)):
        _, other = by_worth(replace(RULES, price=price), run, part, state, 10**9)
        assert found[int(np.flatnonzero(price == PRICES)[0])] == pytest.approx(other.sum(), rel=tolerance)


@given(st.lists(st.tuples(st.floats(0, 1), st.lists(st.floats(0, 1), max_size=16)), max_size=5))
def test_demand_is_at_least_one_each_at_most_all_and_at_the_top_price_a_single_rollout(
    drawn: list[tuple[float, list[float]]],
) -> None:
    groups = Groups.of([prior for prior, _ in drawn], [outcomes for _, outcomes in drawn])
    found = demand(RULES, groups, Reliability())
    assert ((found >= len(groups)) & (found <= RULES.k_max * len(groups))).all()
    assert found[-1] == len(groups)


@pytest.mark.parametrize("regime", list(REGIMES))
@pytest.mark.parametrize("each", [4])
def test_a_paced_run_neither_starves_nor_leaves_money(regime: str, each: int) -> None:
    """At least 97 in 100 rollouts are used, and no more than 3 steps in 50 have a group without any."""
    run = world(1, steps=50, size=16, regime=regime)
    budget = each * run.truth.size
    spent = spend(run, Paced(50), budget)
    assert 0.97 * budget <= spent.rollouts.sum() <= budget
    assert spent.starved <= 3
    cheap, dear = (spend(run, Fixed(price), budget) for price in (2.0**-10, 2.0**-3))
    assert spent.total < min(cheap.total, dear.total)


def test_the_rules_that_can_be_paced_are_those_with_a_price() -> None:
    run = world()
    groups = run.drawn(slice(0, 8), np.full(8, 2))
    single = {name for name, rule in stopping.RULES.items() if rule.worth(groups, Reliability(), 16).priced}
    assert single == set(PRICED)
