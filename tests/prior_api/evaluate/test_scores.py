"""Every score against an independent reference, or on outcomes whose law is known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from services.prior_api.evaluate import scores
from services.prior_api.evaluate.calibration import Bins
from services.prior_api.evaluate.data import Row
from services.prior_api.evaluate.intervals import covered, cumulative
from services.prior_api.evaluate.scores import LEVELS, NAMES, Scores, auc, denoised, score
from services.prior_api.heads import Predictions


def rows(successes: NDArray[Any], trials: int) -> list[Row]:
    return [Row("m", 1, f"p{place}", float(count), trials) for place, count in enumerate(successes)]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    """Against counting every pair of a positive and a negative, ties half."""
    values, positive = np.array([v for v, _ in pairs]) / 5, np.array([p for _, p in pairs])
    wins = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, low in itertools.product(values[positive], values[~positive])
    ]
    assert auc(values, positive) == pytest.approx(np.mean(wins) if wins else np.nan, nan_ok=True)


def test_scores_of_known_values() -> None:
    """A perfect prior scores perfectly, the mean explains nothing, and a coin ranks like a coin."""
    targets = rows(np.array([0, 2, 9, 10]), 10)
    rates = np.array([row.rate for row in targets])
    perfect = score(Predictions(rates, np.full(4, 0.1)), targets, rates)
    assert (perfect.auc, perfect.squared_error, perfect.raw_error, perfect.explained_variance) == (1.0, 0.0, 0.0, 1.0)
    assert (perfect.normal, perfect.z_deviation) == ((1.0,) * 4, 0.0)
    flat = score(Predictions(np.full(4, rates.mean()), np.full(4, 0.1)), targets, rates)
    assert flat.auc == 0.5
    assert flat.explained_variance == pytest.approx(0.0)
    assert flat.squared_error == pytest.approx(4 * rates.var())


def test_errors_are_on_the_scale_of_the_papers() -> None:
    """On {-1, +1} a value of 1/2 is wrong by 1 where all outcomes succeed."""
    targets = rows(np.array([10, 10]), 10)
    assert score(Predictions(np.full(2, 0.5), np.full(2, 0.1)), targets, np.ones(2)).squared_error == 1.0


def test_what_cannot_be_told_is_nan_and_left_out_of_means() -> None:
    """Single outcomes have no denoised rate; prompts that all do alike have no ranking."""
    single = rows(np.array([0, 1, 1]), 1)
    assert all(math.isnan(rate) for rate in denoised(single).values())
    blind = score(Predictions(np.full(3, 0.6), np.full(3, 0.1)), single, np.full(3, np.nan))
    untold = {name for name in NAMES if math.isnan(getattr(blind, name))}
    normal = {f"normal_{round(100 * level)}" for level in LEVELS}
    assert untold == {"squared_error", "explained_variance", "z_deviation"} | normal
    alike = score(Predictions(np.full(3, 0.6), np.full(3, 0.1)), rows(np.array([8, 8, 8]), 8), np.ones(3))
    assert math.isnan(alike.auc)
    assert math.isnan(alike.explained_variance)
    assert scores.mean([blind, alike]).squared_error == alike.squared_error
    assert math.isnan(scores.mean([alike]).auc)


def test_means_count_keys_the_same_and_spread_is_half_the_range() -> None:
    one, other = Scores(*np.arange(13.0).tolist()), Scores(*(np.arange(13.0) + 4).tolist())
    assert scores.mean([one, other]) == Scores(*(np.arange(13.0) + 2).tolist())
    assert scores.spread([one, other]) == Scores(*[2.0] * 13)


@pytest.mark.parametrize("trials", [4, 10])
def test_denoised_rates_come_near_the_posterior_means_of_the_true_law(trials: int) -> None:
    """Rates from Beta(0.6, 1.2): against the posterior mean under that very law, by numerical integration."""
    rng = np.random.default_rng(trials)
    table = rows(rng.binomial(trials, rng.beta(0.6, 1.2, 4000)), trials)
    found = denoised(table)
    for count in range(trials + 1):

        def weight(rate: float, count: int = count) -> float:
            return float(stats.binom.pmf(count, trials, rate) * stats.beta.pdf(rate, 0.6, 1.2))

        total = integrate.quad(weight, 0, 1)[0]
        exact = integrate.quad(lambda rate: rate * weight(rate), 0, 1)[0] / total
        prompt = next(row.prompt for row in table if row.successes == count)
        assert found[prompt] == pytest.approx(exact, abs=0.02)


def test_rows_with_more_trials_are_denoised_less() -> None:
    table = [*rows(np.tile([0, 2, 8, 10], 50), 10), Row("m", 1, "one", 1, 1), Row("m", 1, "many", 100, 100)]
    found = denoised(table)
    assert found["one"] < found["many"] < 1.0


def test_outcome_variance_is_unbiased() -> None:
    """Over all outcomes of n trials at a rate p, its expectation is p (1 - p), for mixed numbers of trials."""
    p = 0.3
    for n in (2, 5):
        chances = stats.binom.pmf(np.arange(n + 1), n, p)
        each = [scores.outcome_variance(np.array([y / n]), np.array([n])) for y in range(n + 1)]
        assert chances @ np.array(each) == pytest.approx(p * (1 - p))
    mixed = scores.outcome_variance(np.array([0.5, 0.25, 1.0]), np.array([2, 4, 1]))
    assert mixed == pytest.approx((0.5 + 0.25) / 2)


@pytest.mark.parametrize("trials", [1, 3, 10, 64])
def test_beta_intervals_cover_as_they_say_where_the_law_holds(trials: int) -> None:
    """Rates drawn from the very Beta laws that values and errors stand for: every level is met within sampling error."""
    rng = np.random.default_rng(trials)
    n = 20_000
    values, strength = rng.uniform(0.03, 0.97, n), rng.uniform(0.5, 30, n)
    errors = np.sqrt(values * (1 - values) / (strength + 1))
    counts = rng.binomial(trials, rng.beta(values * strength, (1 - values) * strength))
    found = covered(values, errors, counts.astype(float), np.full(n, trials), LEVELS)
    for level, share in zip(LEVELS, found, strict=True):
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / n))


def test_normal_intervals_cover_as_they_say_where_the_law_holds() -> None:
    """Normal rates around the values, and so many trials that their noise is normal: every level, and z, is met."""
    rng = np.random.default_rng(7)
    n, trials = 20_000, 400
    values, errors = rng.uniform(0.35, 0.65, n), np.full(n, 0.06)
    counts = rng.binomial(trials, np.clip(rng.normal(values, errors), 0, 1))
    found = score(Predictions(values, errors), rows(counts, trials), values)
    for level, share in zip(LEVELS, found.normal, strict=True):
        assert share == pytest.approx(level, abs=0.012)
    assert found.z_deviation == pytest.approx(1.0, abs=0.02)


def test_errors_that_are_too_small_cover_too_little() -> None:
    """Half the true errors: under either law 90% intervals miss their level by far."""
    rng = np.random.default_rng(8)
    values, errors = rng.uniform(0.35, 0.65, 5000), np.full(5000, 0.12)
    counts = rng.binomial(100, np.clip(rng.normal(values, errors), 0, 1))
    found = score(Predictions(values, errors / 2), rows(counts, 100), values)
    assert found.normal_90 < 0.75
    assert found.beta_90 < 0.75
    assert found.z_deviation > 1.4


@pytest.mark.parametrize(("value", "error", "trials"), [(0.3, 0.2, 10), (0.9, 0.05, 4), (0.5, 0.35, 1)])
def test_cumulative_chances_are_those_of_the_beta_binomial(value: float, error: float, trials: int) -> None:
    """Against scipy's own law, for every count."""
    strength = value * (1 - value) / error**2 - 1
    reference = stats.betabinom(trials, value * strength, (1 - value) * strength)
    counts = np.arange(trials + 1)
    below, upto = cumulative(
        np.full(trials + 1, value), np.full(trials + 1, error), counts, np.full(trials + 1, trials)
    )
    assert upto == pytest.approx(reference.cdf(counts))
    assert below == pytest.approx(reference.cdf(counts - 1))


@given(st.floats(0, 1), st.floats(0, 0.5), st.integers(1, 30), st.data())
def test_any_value_and_error_has_a_coverage(value: float, error: float, trials: int, data: st.DataObject) -> None:
    """Shares lie in [0, 1] and grow with the level, certain values and impossible errors included."""
    count = data.draw(st.integers(0, trials))
    found = covered(np.array([value]), np.array([error]), np.array([float(count)]), np.array([trials]), LEVELS)
    assert all(0 <= share <= 1 + 1e-9 for share in found)
    assert found == sorted(found)


def test_calibration_error_of_known_bins() -> None:
    """Three tenths: right, 0.2 too high, 0.1 too low, weighted by their rows."""
    values = np.array([0.05, 0.05, 0.55, 0.55, 0.55, 1.0])
    rates = np.array([0.0, 0.1, 0.35, 0.35, 0.35, 1.0])
    bins = Bins.of(values, rates)
    assert bins.error == pytest.approx((0 + 3 * 0.2 + 0) / 6)
    assert bins.curve() == [
        (pytest.approx(0.05), pytest.approx(0.05), 2),
        (pytest.approx(0.55), pytest.approx(0.35), 3),
        (1.0, 1.0, 1),
    ]
    both = Bins.total([Bins.of(values[:2], rates[:2]), Bins.of(values[2:], rates[2:])])
    assert both.error == pytest.approx(bins.error)


def test_the_calibration_error_of_right_values_is_what_chance_says() -> None:
    """Rates that scatter around their values: the error averages to `chance`, and wrong values exceed it."""
    rng = np.random.default_rng(9)
    errors, chances = [], []
    for _ in range(200):
        values = rng.uniform(0, 1, 300)
        bins = Bins.of(values, rng.binomial(10, values) / 10)
        errors.append(bins.error)
        chances.append(bins.chance)
    assert np.mean(errors) == pytest.approx(np.mean(chances), rel=0.15)
    wrong = Bins.of(values, rng.binomial(10, values**2) / 10)
    assert wrong.error > 3 * wrong.chance
