"""Stopping rules: the closed form is the true expectation, and the paper's look-ahead is the paper's."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget import baselines, stopping
from rollout_budget.decisions import PAPER_PRICE, Rules, first_wave, next_wave
from rollout_budget.errors import InvalidInput
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from tests.core.enumeration import PRIORS, patterns, same_prior

KNOWN = Reliability.known(1 / 12, 1 / 6)


def paper_continues(v: float, y: list[float], price: float) -> bool:
    """Return the look-ahead condition as the paper writes it, on the {-1, +1} scale."""
    k, mean = len(y), sum(y) / len(y)
    bias = max(0.0, (mean - v) ** 2 - 1 / k)
    return bias**2 / ((1 + k * bias) * (1 + (k + 1) * bias)) > price


@pytest.mark.parametrize("k", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("price", [PAPER_PRICE, 0.02, 0.1])
def test_osla_is_the_papers_condition_on_its_own_scale(k: int, prior: float, price: float) -> None:
    """Every pattern asks for one more exactly when the paper's inequality holds."""
    rules = Rules(baselines.get("v05"), stopping.get("osla"), price=price / 4)
    drawn = patterns(k)
    wanted = next_wave(rules, same_prior(prior, drawn), KNOWN).wanted
    expected = [paper_continues(2 * prior - 1, [2 * y - 1 for y in pattern], price) for pattern in drawn]
    assert wanted.tolist() == [int(more) for more in expected]


def test_osla_worth_is_the_fall_of_the_papers_risk() -> None:
    """The worth of a rollout is MSE(k) - MSE(k+1) with MSE(k) = D/(1 + kD), a quarter of it on the unit scale."""
    groups = Groups.of([0.1], [[1.0, 1.0, 1.0, 0.0]])
    bias = (0.5 - (2 * 0.1 - 1)) ** 2 - 1 / 4
    worth = stopping.get("osla").worth(groups, KNOWN, 16)
    fall = bias / (1 + 4 * bias) - bias / (1 + 5 * bias)
    assert worth.marginal(np.array([1])) == pytest.approx(fall / 4)


def test_osla_stops_where_the_prior_is_accepted_even_for_nothing() -> None:
    """D = 0: a further rollout is worth nothing, so none is asked for at price 0 either."""
    rules = Rules(baselines.get("v05"), stopping.get("osla"), price=0.0)
    assert next_wave(rules, Groups.of([0.5], [[1.0, 0.0, 1.0, 1.0]]), KNOWN).wanted.tolist() == [0]


def posterior_variance(alpha: float, beta: float) -> float:
    return alpha * beta / ((alpha + beta) ** 2 * (alpha + beta + 1))


def expected_variance(alpha: float, beta: float, ahead: int) -> float:
    """Return the expected posterior variance after `ahead` more outcomes, by recursion over each of them."""
    if ahead == 0:
        return posterior_variance(alpha, beta)
    q = alpha / (alpha + beta)
    return q * expected_variance(alpha + 1, beta, ahead - 1) + (1 - q) * expected_variance(alpha, beta + 1, ahead - 1)


@pytest.mark.parametrize("prior", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("outcomes", [(), (1.0,), (0.0, 1.0, 1.0)])
def test_posterior_variance_states_its_own_expected_fall(prior: float, outcomes: tuple[float, ...]) -> None:
    """The j-th rollout's worth in closed form is the expected fall of the Beta posterior's variance, enumerated."""
    worth = stopping.get("posterior_variance").worth(same_prior(prior, [outcomes]), KNOWN, 16)
    m = KNOWN.strength
    alpha, beta = m * prior + sum(outcomes), m * (1 - prior) + len(outcomes) - sum(outcomes)
    for j in range(1, 8):
        fall = expected_variance(alpha, beta, j - 1) - expected_variance(alpha, beta, j)
        assert worth.marginal(np.array([j])) == pytest.approx(fall, abs=1e-14)


def test_the_first_wave_follows_trust() -> None:
    """`auto` gives a strong prior 1 or 2 rollouts, none 4 or more, and a certain prompt 1."""
    rules = Rules(baselines.get("empirical_bayes"), stopping.get("posterior_variance"), k_init=0)
    undecided = same_prior(0.5, [()])
    assert first_wave(rules, undecided, Reliability.known(0.002, 0.2)).wanted[0] <= 2
    assert first_wave(rules, undecided, Reliability.known(0.12, 0.2)).wanted[0] >= 4
    assert first_wave(rules, same_prior(1.0, [()]), Reliability.known(0.12, 0.2)).wanted.tolist() == [1]


@pytest.mark.parametrize(
    ("rule", "k_init", "size"),
    [
        ("fixed", 4, 8),
        ("fixed", 0, 8),
        ("dapo", 4, 8),
        ("osla", 0, 4),
        ("osla", 2, 2),
        ("posterior_variance", 3, 3),
        ("reinforce_ada_positive", 0, 8),
        ("reinforce_ada_balanced", 4, 4),
        ("vip", 3, 3),
        ("vip", 0, 8),
        ("knapsack", 3, 3),
    ],
)
def test_first_waves_of_a_stated_size(rule: str, k_init: int, size: int) -> None:
    """`fixed` draws all at once, the paper starts with 4, a number is a number; none exceeds `k_max`."""
    rules = Rules(baselines.get("v05"), stopping.get(rule), k_init=k_init, k_max=8)
    assert first_wave(rules, same_prior(0.5, [(), ()]), KNOWN).wanted.tolist() == [size, size]
    short = Rules(baselines.get("v05"), stopping.get(rule), k_init=k_init, k_max=1)
    assert first_wave(short, same_prior(0.5, [()]), KNOWN).wanted.tolist() == [1]


@given(
    st.sampled_from(sorted(stopping.RULES)),
    st.lists(st.tuples(st.floats(0, 1), st.lists(st.sampled_from([0.0, 1.0]), max_size=20)), min_size=1, max_size=6),
    st.integers(1, 16),
    st.sampled_from([0.0, 1e-5, 1 / 1024, 0.1]),
)
def test_no_rule_goes_past_its_largest_group(
    rule: str, batch: list[tuple[float, list[float]]], k_max: int, price: float
) -> None:
    """What is wanted is never negative and never takes a group past `k_max`, also where it is past it already."""
    groups = Groups.of([prior for prior, _ in batch], [outcomes for _, outcomes in batch])
    rules = Rules(baselines.get("empirical_bayes"), stopping.get(rule), price=price, k_max=k_max)
    wanted = next_wave(rules, groups, KNOWN).wanted
    assert (wanted >= 0).all()
    assert (wanted <= np.maximum(k_max - groups.sizes, 0)).all()


def test_fixed_ignores_the_price() -> None:
    """A fixed group grows to its size at any price."""
    rules = Rules(baselines.get("group_mean"), stopping.get("fixed"), price=1e9, k_max=16)
    assert next_wave(rules, Groups.of([0.5, 0.5], [[], [1.0] * 5]), KNOWN).wanted.tolist() == [16, 11]


@pytest.mark.parametrize(
    ("rule", "outcomes", "more"),
    [
        ("reinforce_ada_positive", [0.0] * 8, 8),
        ("reinforce_ada_positive", [0.0] * 30, 2),
        ("reinforce_ada_positive", [0.0] * 7 + [1.0], 0),
        ("reinforce_ada_positive", [0.5, 0.2], 8),
        ("reinforce_ada_positive", [0.51, 0.2], 0),
        ("reinforce_ada_balanced", [1.0, 1.0, 1.0, 0.0], 8),
        ("reinforce_ada_balanced", [1.0, 1.0, 0.0, 0.0], 0),
        ("reinforce_ada_balanced", [0.0] * 32, 0),
    ],
)
def test_reinforce_ada_draws_rounds_until_it_has_seen_its_signal(rule: str, outcomes: list[float], more: int) -> None:
    """At most 32 in all; one positive outcome is enough for the one stop, two of each kind for the other."""
    rules = Rules(baselines.get("leave_one_out"), stopping.get(rule), k_max=32)
    assert next_wave(rules, Groups.of([0.5], [outcomes]), KNOWN).wanted.tolist() == [more]


def test_dapo_gives_up_full_groups_without_signal() -> None:
    """Only a group that is full and whose outcomes are all equal is given up, and by no other rule."""
    groups = Groups.of([0.5] * 4, [[1.0] * 4, [0.0] * 4, [1.0, 0.0, 1.0, 1.0], [1.0, 1.0]])
    expected = {"dapo": [True, True, False, False]}
    for rule in stopping.RULES:
        plan = next_wave(Rules(baselines.get("leave_one_out"), stopping.get(rule), k_max=4), groups, KNOWN)
        assert plan.given_up.tolist() == expected.get(rule, [False] * 4)


def gradient_variance(rates: list[float], sizes: tuple[int, ...]) -> float:
    """Return what VIP minimises."""
    return sum(p * (1 - p) / (n - 1) for p, n in zip(rates, sizes, strict=True))


def information(rates: list[float], sizes: tuple[int, ...]) -> float:
    """Return what Knapsack RL maximises, less its sign."""
    return -sum((1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2 for p, n in zip(rates, sizes, strict=True))


@pytest.mark.parametrize(("rule", "cost"), [("vip", gradient_variance), ("knapsack", information)])
@pytest.mark.parametrize("rates", [[0.02, 0.3, 0.5, 0.97], [0.5, 0.5, 0.1, 0.2], [0.9, 0.8, 0.7, 0.01]])
@pytest.mark.parametrize("average", [2, 3, 4])
def test_joint_first_waves_are_the_best_of_all(
    rule: str, cost: Callable[[list[float], tuple[int, ...]], float], rates: list[float], average: int
) -> None:
    """No other sizes from 2 to 6 with the same sum do better: every one is enumerated."""
    rules = Rules(baselines.get("leave_one_out"), stopping.get(rule), k_init=average, k_max=6)
    sizes = first_wave(rules, Groups.of(rates, [[]] * 4), KNOWN).wanted
    assert sizes.sum() == 4 * average
    every = [sizes for sizes in product(range(2, 7), repeat=4) if sum(sizes) == 4 * average]
    assert cost(rates, tuple(sizes.tolist())) == pytest.approx(min(cost(rates, other) for other in every), rel=1e-12)


@pytest.mark.parametrize("rule", ["vip", "knapsack"])
def test_joint_waves_serve_every_group_first_and_come_once(rule: str) -> None:
    """A budget of one each gives one each; a group that has outcomes asks for no more, and takes no part."""
    rules = Rules(baselines.get("leave_one_out"), stopping.get(rule), k_init=1, k_max=8)
    assert first_wave(rules, Groups.of([0.5, 0.01, 0.9], [[]] * 3), KNOWN).wanted.tolist() == [1, 1, 1]
    begun = Groups.of([0.5, 0.5, 0.5], [[1.0, 0.0], [], []])
    wide = Rules(baselines.get("leave_one_out"), stopping.get(rule), k_init=4, k_max=8)
    assert first_wave(wide, begun, KNOWN).wanted.tolist() == [0, 4, 4]
    assert next_wave(wide, begun, KNOWN).wanted[0] == 0


def test_what_knapsack_has_left_over_goes_to_the_hardest() -> None:
    """Where no rollout adds value, prompts of V = 0 are served before those of V = 1, evenly."""
    rules = Rules(baselines.get("leave_one_out"), stopping.get("knapsack"), k_init=4, k_max=6)
    assert first_wave(rules, Groups.of([1.0, 0.0, 0.0, 1.0], [[]] * 4), KNOWN).wanted.tolist() == [2, 6, 6, 2]


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    """A misspelt rule says what there is."""
    with pytest.raises(InvalidInput, match="fixed, osla, posterior_variance"):
        stopping.get("never")
