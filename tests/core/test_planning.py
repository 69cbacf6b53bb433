"""The choice of prompts: chances are exact by enumeration of the design, weights undo them, budgets hold."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout_budget import baselines, stopping
from rollout_budget.decisions import Rules, first_wave
from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.planning import Allowance, Inclusion, choose, inclusion, posterior, systematic
from rollout_budget.planning.posterior import strengths
from rollout_budget.planning.sampling import SHARES, picked, ranked
from rollout_budget.reliability import Reliability

FIXED = Rules(baselines.get("empirical_bayes"), stopping.get("posterior_variance"), k_init=4)
AUTO = Rules(baselines.get("empirical_bayes"), stopping.get("posterior_variance"), k_init=0)
TRUSTED = Reliability.known(squared_prior_error=0.01, within_variance=0.2)
WEAK = Reliability.known(squared_prior_error=0.1, within_variance=0.2)


def candidates(*priors: float) -> Groups:
    return Groups.of(priors, [[] for _ in priors])


@st.composite
def small_designs(draw: st.DrawFn) -> tuple[IntArray, int]:
    """Units of some candidates over a small denominator, each at most whole, summing to a multiple of it."""
    whole = draw(st.integers(2, 12))
    units = draw(st.lists(st.integers(1, whole), min_size=2, max_size=6))
    missing = -sum(units) % whole
    if missing:
        units.append(missing)
    return np.array(units, dtype=np.int64), whole


@given(small_designs())
def test_every_chance_is_exact(design: tuple[IntArray, int]) -> None:
    """Over all equally likely starts, each candidate is in the sample exactly `units` times, and never twice in one."""
    units, whole = design
    samples = [picked(units, whole, start) for start in range(whole)]
    assert {sample.size for sample in samples} == {int(units.sum()) // whole}
    assert all(np.unique(sample).size == sample.size for sample in samples)
    assert np.array_equal(np.bincount(np.concatenate(samples), minlength=units.size), units)


@given(small_designs(), st.data())
@settings(max_examples=40, deadline=None)
def test_weighted_means_are_unbiased_over_the_whole_design(design: tuple[IntArray, int], data: st.DataObject) -> None:
    """Every order and every start, in exact fractions: the weighted mean of a sample is the mean of the population."""
    units, whole = design[0][:4], design[1]
    units = np.append(units, -int(units.sum()) % whole or whole)
    number, size = units.size, int(units.sum()) // whole
    values = data.draw(st.lists(st.integers(-9, 9), min_size=number, max_size=number))
    total, cases = Fraction(0), 0
    for order in itertools.permutations(range(number)):
        for start in range(whole):
            sample = [order[place] for place in picked(units[list(order)], whole, start)]
            weights = [Fraction(size * whole, number * int(units[i])) for i in sample]
            total += sum((w * values[i] for w, i in zip(weights, sample, strict=True)), Fraction(0)) / size
            cases += 1
    assert total / cases == Fraction(sum(values), number)


@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, SHARES), st.integers(0, 2**32), st.data())
def test_chances_sum_to_the_size_and_keep_to_the_floor(
    number: int, draws: int, shares: int, seed: int, data: st.DataObject
) -> None:
    """Whatever the scores: no chance above 1 or below e n / N, no weight above 1 / e."""
    size = data.draw(st.integers(1, number))
    rng = np.random.default_rng(seed)
    chances = inclusion(ranked(rng.random((draws, number)) ** 9, rng), size, shares)
    assert int(chances.units.sum()) == size * chances.whole
    assert int(chances.units.max()) <= chances.whole
    assert all(Fraction(int(u), chances.whole) >= Fraction(shares * size, SHARES * number) for u in chances.units)
    assert chances.weight.max() <= SHARES / shares * (1 + 1e-12)
    assert chances.propensity @ chances.weight == pytest.approx(size)


def test_samples_are_met_as_often_as_their_chances_say() -> None:
    """The same with the generator's own orders and starts: 20,000 samples, five standard errors."""
    chances = Inclusion(np.array([1, 3, 7, 10, 9], dtype=np.int64), 10, 3)
    rng = np.random.default_rng(5)
    met = np.zeros(5)
    for _ in range(20_000):
        met[systematic(chances, rng)] += 1
    spread = np.sqrt(chances.propensity * (1 - chances.propensity) / 20_000)
    assert (np.abs(met / 20_000 - chances.propensity) <= 5 * spread).all()


def test_weights_recover_the_uniform_mean_where_the_plain_mean_is_biased() -> None:
    """From priors to weights, over 800 seeds: the loss of a uniform choice is met, the unweighted one misses it."""
    priors = np.linspace(0.02, 0.98, 25)
    values = priors**2
    weighted, plain = np.empty(800), np.empty(800)
    for seed in range(weighted.size):
        choice = choose(FIXED, candidates(*priors), TRUSTED, Allowance(groups=6), exploration=0.25, seed=seed)
        weighted[seed] = np.mean(choice.weight * values[choice.chosen])
        plain[seed] = np.mean(values[choice.chosen])
    error = weighted.std() / weighted.size**0.5
    assert abs(weighted.mean() - values.mean()) < 4 * error
    assert abs(plain.mean() - values.mean()) > 4 * error


def test_a_seed_fixes_the_choice() -> None:
    """A retry chooses the same prompts with the same chances; another seed chooses others."""
    groups = candidates(*np.linspace(0, 1, 40))
    first, again, other = (
        choose(AUTO, groups, TRUSTED, Allowance(rollouts=30), exploration=0.2, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.chosen, again.chosen)
    assert np.array_equal(first.propensity, again.propensity)
    assert not np.array_equal(first.chosen, other.chosen)


def test_prompts_between_always_and_never_come_first() -> None:
    """A trusted prior: what it calls a coin flip is nearly certain to be opened, what it calls solved is left to chance."""
    priors = [0.5] * 4 + [0.001] * 8 + [0.999] * 8
    chances = np.zeros(20)
    for seed in range(200):
        choice = choose(FIXED, candidates(*priors), TRUSTED, Allowance(groups=4), exploration=0.1, seed=seed)
        chances[choice.chosen] += 1 / 200
    assert chances[:4].min() > 0.85
    assert chances[4:].max() < 0.1
    assert choice.signal[:4].min() > 0.2
    assert choice.signal[4:].max() < 0.05


@pytest.mark.parametrize("exploration", [1 / 64, 0.02, 0.1, 0.3, 0.9999, 1.0])
def test_no_weight_exceeds_what_was_asked_for(exploration: float) -> None:
    """1 / e, also where e is no multiple of 1/1024: shares are rounded up."""
    for seed in range(40):
        allowance = Allowance(groups=6)
        choice = choose(
            FIXED, candidates(*[0.5] * 6, *[0.0] * 26), TRUSTED, allowance, exploration=exploration, seed=seed
        )
        assert choice.weight.max() <= 1 / exploration + 1e-9


def test_full_exploration_is_the_uniform_choice() -> None:
    """The prior then plays no part: every chance is n / N, every weight 1."""
    choice = choose(FIXED, candidates(0.0, 0.5, 0.9, 1.0), TRUSTED, Allowance(groups=3), exploration=1.0, seed=0)
    assert choice.propensity.tolist() == [0.75] * 3
    assert choice.weight.tolist() == [1.0] * 3


def test_more_groups_than_candidates_opens_them_all() -> None:
    choice = choose(FIXED, candidates(0.1, 0.5), TRUSTED, Allowance(groups=9), exploration=0.1, seed=0)
    assert (choice.chosen.tolist(), choice.propensity.tolist(), choice.weight.tolist()) == ([0, 1], [1, 1], [1, 1])


def learned(priors: FloatArray, rates: FloatArray) -> Reliability:
    """Return what a run knows after groups of four at these rates, opened with these priors."""
    outcomes = (np.random.default_rng(1).random((rates.size, 4)) < rates[:, None]).astype(float)
    return Reliability().update(Groups.of(priors, outcomes.tolist()))


def test_a_prior_that_proved_useless_gives_a_nearly_uniform_choice() -> None:
    """It says nothing about rates: all prompts look alike, and the weights of a sample lose little."""
    rng = np.random.default_rng(0)
    rates, priors = rng.beta(0.4, 0.4, 2000), rng.random(2000)
    groups, run = candidates(*priors[:100]), learned(priors, rates)
    shares = []
    for seed in range(5):
        choice = choose(FIXED, groups, run, Allowance(groups=25), exploration=0.1, seed=seed)
        shares.append(choice.weight.sum() ** 2 / (choice.weight**2).sum() / 25)
    assert np.mean(shares) > 0.85


def test_a_prior_that_is_wrong_in_a_learnable_way_finds_the_signal_all_the_same() -> None:
    """It calls coin flips certain and certain prompts coin flips; after some groups the choice knows."""
    rates = np.random.default_rng(0).beta(0.4, 0.4, 2000)
    priors = (rates + 0.5) % 1.0
    run = learned(priors, rates)
    met = [
        rates[choose(FIXED, candidates(*priors[:100]), run, Allowance(groups=10), exploration=0.1, seed=seed).chosen]
        for seed in range(20)
    ]
    signal = float(np.mean([rate * (1 - rate) for rate in met]))
    assert signal > 1.5 * float((rates[:100] * (1 - rates[:100])).mean())


@pytest.mark.parametrize("budget", [1, 3, 4, 11, 12, 1000])
def test_a_budget_of_rollouts_pays_for_whole_first_waves(budget: int) -> None:
    """With fixed first waves: as many groups as fit, at least one; what one alone exceeds is cut."""
    choice = choose(FIXED, candidates(*[0.4] * 20), TRUSTED, Allowance(rollouts=budget), exploration=0.1, seed=0)
    assert choice.chosen.size == min(max(budget // 4, 1), 20)
    assert choice.first.sum() == min(choice.chosen.size * 4, budget)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.integers(1, 200),
    st.floats(0.01, 1.0),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_first_waves_of_any_length_keep_to_the_budget(
    priors: list[float], budget: int, exploration: float, seed: int
) -> None:
    """Sized by trust: each chosen prompt gets at least one rollout, none more than its rule asks, all no more than the budget."""
    groups = candidates(*priors)
    choice = choose(AUTO, groups, TRUSTED, Allowance(rollouts=budget), exploration=exploration, seed=seed)
    wanted = first_wave(AUTO, groups, TRUSTED).wanted[choice.chosen]
    assert choice.first.sum() <= budget
    assert ((choice.first >= 1) & (choice.first <= wanted)).all()
    assert choice.first.sum() == min(int(wanted.sum()), budget)
    assert np.unique(choice.chosen).size == choice.chosen.size


def test_a_budget_of_rollouts_is_met_in_the_mean() -> None:
    """First waves of very different length: over the design they cost the budget, less than one group short of it."""
    groups, fresh = candidates(*np.linspace(0, 1, 60)), Reliability()
    wanted = first_wave(AUTO, groups, fresh).wanted
    assert wanted.max() > wanted.min()
    chances = np.zeros(60)
    for seed in range(150):
        choice = choose(AUTO, groups, fresh, Allowance(rollouts=60), exploration=0.2, seed=seed)
        chances[choice.chosen] += 1 / 150
    assert 60 - 1.5 * wanted.max() < chances @ wanted < 61.5


def test_draws_follow_the_law() -> None:
    """Mean and variance of Beta(m V, m (1 - V)) where D and S are known; certainties stay certain."""
    groups = candidates(0.3, 0.0, 1.0)
    draws: FloatArray = posterior(groups, TRUSTED, 40_000, np.random.default_rng(1))
    assert draws[:, 0].mean() == pytest.approx(0.3, abs=0.005)
    assert draws[:, 0].var() == pytest.approx(0.21 / (TRUSTED.strength + 1), rel=0.05)
    assert draws[:, 1].mean() < 1e-4
    assert draws[:, 2].mean() > 1 - 1e-4


def test_a_prior_with_a_standard_error_keeps_the_mean_of_the_law() -> None:
    """One that claims much spreads less than one that claims little; those without claims keep the law's own shape."""
    prior, error = np.full(3, 0.3), np.array([0.02, 0.4, np.nan])
    groups = Groups(prior, error, np.zeros(3, dtype=np.int64), np.empty(0))
    draws: FloatArray = posterior(groups, WEAK, 40_000, np.random.default_rng(1))
    assert draws.mean(axis=0) == pytest.approx(prior, abs=0.01)
    spread = draws.var(axis=0)
    assert spread[0] < spread[2] < spread[1]
    assert spread[2] == pytest.approx(0.21 / (WEAK.strength + 1), rel=0.05)


def test_standard_errors_say_who_is_known_better_and_outcomes_how_well() -> None:
    """Claims ten times too strong count for what the law holds; their ratios stay."""
    prior = np.full(3, 0.4)
    law = WEAK.law.posterior(prior, np.zeros(3), np.zeros(3))
    claimed = np.array([2.0, 10.0, 30.0])
    error = np.sqrt(0.24 / (claimed + 1.0))
    honest, boastful = (strengths(prior, error * scale, law) for scale in (1.0, 10**-0.5))
    weight = 1 / (claimed + 1)
    assert honest / claimed == pytest.approx(np.full(3, honest[0] / 2))
    assert float(weight @ honest / weight.sum()) == pytest.approx(WEAK.strength)
    assert boastful == pytest.approx(honest, rel=0.25)


def test_a_certain_claim_is_bounded() -> None:
    """A standard error of 0 divides nothing, and takes no other prompt's strength away altogether."""
    prior = np.array([0.5, 0.5, 0.0])
    law = TRUSTED.law.posterior(prior, np.zeros(3), np.zeros(3))
    found = strengths(prior, np.array([0.0, 0.3, 0.0]), law)
    assert np.isfinite(found).all()
    assert found.min() > 0


def test_more_draws_behind_a_score_explore_less() -> None:
    """The same weak prior: what looks best is chosen more often, from one draw to sixteen."""
    groups = candidates(*np.linspace(0.02, 0.98, 64))
    signal = []
    for averaged in (1, 4, 16):
        chosen = [
            choose(FIXED, groups, WEAK, Allowance(groups=8), exploration=0.1, seed=seed, averaged=averaged)
            for seed in range(12)
        ]
        signal.append(float(np.mean([choice.signal[choice.chosen].mean() for choice in chosen])))
    assert signal[0] < signal[1] < signal[2]
