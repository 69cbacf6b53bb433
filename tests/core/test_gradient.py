"""Bias of the policy gradient, exactly: a Bernoulli policy of one parameter, every outcome pattern enumerated.

With y = 1 of probability p = sigmoid(theta) the score is y - p and the gradient of E[y] is p (1 - p). A method's
figure is the expected gradient over that truth, less 1. `sum` divides the expected sum over samples by the expected
number of samples (a loss that sums over all samples of a batch); `mean` averages within each group first (a loss with
a mean per group).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rollout_budget import baselines, stopping
from rollout_budget.decisions import Rules, next_wave, sample_baselines
from rollout_budget.reliability import Reliability
from tests.core.enumeration import Pattern, patterns, probabilities, same_prior, stopped

KNOWN = Reliability.known(1 / 12, 1 / 6)
RATES = (0.05, 0.2, 0.5, 0.7, 0.95)
PRIORS = (0.1, 0.3, 0.5, 0.8)
PRICES = (1 / 1024, 1 / 256, 1 / 100)


def relative_bias(rules: Rules, drawn: list[Pattern], first: int, prior: float, p: float) -> tuple[float, float]:
    """Return the relative bias of the `sum` and of the `mean` gradient at success rate p."""
    groups = same_prior(prior, drawn)
    baseline, carries = sample_baselines(
        rules, groups, KNOWN, np.full(len(drawn), first), rules.estimator(groups, KNOWN)
    )
    terms = np.where(carries, (groups.outcomes - baseline) * (groups.outcomes - p), 0.0)
    count = np.bincount(groups.owner, carries, len(groups))
    total = np.bincount(groups.owner, terms, len(groups))
    chance, truth = probabilities(drawn, p), p * (1 - p)
    assert chance.sum() == pytest.approx(1.0)
    return float(chance @ total / (chance @ count) / truth - 1), float(chance @ (total / count) / truth - 1)


def fixed_bias(name: str, k: int, prior: float, p: float) -> float:
    rules = Rules(baselines.get(name), stopping.get("fixed"), k_max=k)
    return relative_bias(rules, patterns(k), k, prior, p)[0]


def worst_stopped_bias(estimator: str, rule: str, k_init: int, *, first_wave_only: bool) -> tuple[float, float]:
    """Return the largest relative bias over priors, rates and prices, for `sum` and `mean`, groups of at most 8."""
    worst = np.zeros(2)
    for prior in PRIORS:
        for price in PRICES:
            rules = Rules(baselines.get(estimator), stopping.get(rule), price=price, k_init=k_init, k_max=8)
            drawn, first = stopped(rules, prior, KNOWN)
            rules = replace(rules, first_wave_only=first_wave_only)
            for p in RATES:
                worst = np.maximum(worst, np.abs(relative_bias(rules, drawn, first, prior, p)))
    return float(worst[0]), float(worst[1])


@pytest.mark.parametrize("name", ["leave_one_out", "empirical_bayes"])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("p", RATES)
def test_leaving_the_sample_out_is_unbiased(name: str, k: int, prior: float, p: float) -> None:
    """At a fixed k the expected gradient is the true one, for any prior and any rate."""
    assert fixed_bias(name, k, prior, p) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("p", RATES)
def test_group_mean_shrinks_the_gradient_by_its_own_share(k: int, p: float) -> None:
    """A sample in its own baseline costs exactly 1/k of the gradient: all of it at k = 1."""
    assert fixed_bias("group_mean", k, 0.5, p) == pytest.approx(-1 / k, abs=1e-12)


@pytest.mark.parametrize(("k", "figure"), [(2, 0.644), (4, 0.322), (8, 0.150)])
def test_paper_fusion_biases_the_gradient(k: int, figure: float) -> None:
    """Fusing with the sample's own outcome costs up to the stated share over this grid; never the sign."""
    worst = max((fixed_bias("v05", k, prior, p) for prior in PRIORS for p in RATES), key=abs)
    assert abs(worst) == pytest.approx(figure, abs=5e-4)
    assert worst > -1


@pytest.mark.parametrize(
    ("estimator", "rule", "k_init", "of_sum", "of_mean"),
    [
        ("empirical_bayes", "posterior_variance", 2, 0.051, 0.500),
        ("leave_one_out", "posterior_variance", 2, 0.089, 0.556),
        ("leave_one_out", "osla", 4, 0.075, 0.510),
        ("v05", "osla", 4, 0.322, 0.322),
        ("leave_one_out", "reinforce_ada_positive", 2, 0.142, 0.687),
        ("leave_one_out", "reinforce_ada_positive", 4, 0.042, 0.420),
        ("leave_one_out", "reinforce_ada_balanced", 4, 0.044, 0.098),
        ("beta_history", "reinforce_ada_positive", 2, 0.0, 0.606),
        ("beta_history", "posterior_variance", 2, 0.0, 0.484),
        ("leave_one_out", "vip", 4, 0.0, 0.0),
        ("leave_one_out", "knapsack", 4, 0.0, 0.0),
    ],
)
def test_a_stop_that_depends_on_outcomes_biases_the_gradient(
    estimator: str, rule: str, k_init: int, of_sum: float, of_mean: float
) -> None:
    """The worst bias over the grid: small when a loss sums over samples, large when it averages within groups."""
    worst = worst_stopped_bias(estimator, rule, k_init, first_wave_only=False)
    assert worst == pytest.approx((of_sum, of_mean), abs=5e-4)


@pytest.mark.parametrize("estimator", ["empirical_bayes", "leave_one_out"])
@pytest.mark.parametrize(
    ("rule", "k_init"),
    [("posterior_variance", 2), ("posterior_variance", 0), ("osla", 4), ("reinforce_ada_positive", 2)],
)
def test_the_first_wave_alone_is_unbiased_under_any_stop(estimator: str, rule: str, k_init: int) -> None:
    """With advantages and baselines of the first wave only, the bias is exactly nothing."""
    worst = worst_stopped_bias(estimator, rule, k_init, first_wave_only=True)
    assert worst == pytest.approx((0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize(("estimator", "figure"), [("empirical_bayes", 0.108), ("leave_one_out", 0.1875)])
def test_masking_later_waves_is_not_enough(estimator: str, figure: float) -> None:
    """If the first wave's baselines saw later outcomes, the gradient would still depend on the stop through them."""
    worst = 0.0
    for prior in PRIORS:
        for price in PRICES:
            rule = stopping.get("posterior_variance")
            rules = Rules(baselines.get(estimator), rule, price=price, k_init=2, k_max=8)
            drawn, first = stopped(rules, prior, KNOWN)
            groups = same_prior(prior, drawn)
            in_first = np.concatenate([np.arange(len(pattern)) < first for pattern in drawn])
            advantages = (groups.outcomes - rules.estimator(groups, KNOWN).per_sample) * in_first
            for p in RATES:
                total = np.bincount(groups.owner, advantages * (groups.outcomes - p), len(groups))
                worst = max(worst, abs(float(probabilities(drawn, p) @ total) / first / (p * (1 - p)) - 1))
    assert worst == pytest.approx(figure, abs=5e-4)


@pytest.mark.parametrize("k", [2, 4, 8])
@pytest.mark.parametrize("p", RATES)
def test_refilling_weights_prompts_by_how_rarely_they_speak(k: int, p: float) -> None:
    """Groups of equal outcomes thrown away: what is left overstates a prompt's gradient by 1 / P(it has signal)."""
    drawn = patterns(k)
    groups = same_prior(0.5, drawn)
    rules = Rules(baselines.get("leave_one_out"), stopping.get("dapo"), k_max=k)
    plan = next_wave(rules, groups, KNOWN)
    terms = (groups.outcomes - plan.baselines.per_sample) * (groups.outcomes - p)
    kept = probabilities(drawn, p) * ~plan.given_up
    gradient = kept @ np.bincount(groups.owner, terms) / k / kept.sum()
    speaks = 1 - p**k - (1 - p) ** k
    assert kept.sum() == pytest.approx(speaks)
    assert gradient == pytest.approx(p * (1 - p) / speaks)
