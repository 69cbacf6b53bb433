"""The law of rates: exact against sums by hand, near the Bayes-optimal error on every kind of prior, safe as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget import baselines, stopping
from rollout_budget.errors import InvalidInput
from rollout_budget.groups import Groups
from rollout_budget.law import MAX_SIZE, NODES, BetaLaw, LearnedLaw
from rollout_budget.outcomes import FloatArray
from rollout_budget.posterior import Posterior
from rollout_budget.reliability import Reliability

RATES = (1.0 - np.cos(np.pi * (np.arange(25) + 0.5) / 25)) / 2.0
Draw = Callable[[np.random.Generator, FloatArray], FloatArray]


def learned(seed: int = 0, groups: int = 4096, k: int = 3, *, prior: Draw | None = None) -> Reliability:
    """Learn from groups whose rates pile up at 0 and 1 and whose priors miss by 0.15."""
    rng, state = np.random.default_rng(seed), Reliability()
    say = prior or near_truth
    for _ in range(groups // 128):
        rates = rng.beta(0.5, 0.5, 128)
        outcomes = (rng.random((128, k)) < rates[:, None]).astype(float)
        state = state.update(Groups.of(say(rng, rates), outcomes.tolist()))
    return state


def near_truth(rng: np.random.Generator, rates: FloatArray) -> FloatArray:
    return np.clip(rates + rng.normal(0, 0.15, rates.size), 0, 1)


def reversed_truth(rng: np.random.Generator, rates: FloatArray) -> FloatArray:
    return near_truth(rng, 1 - rates)


def half_truth(rng: np.random.Generator, rates: FloatArray) -> FloatArray:
    """Nearly exact for half of the prompts, a stranger's rate for the others."""
    return np.where(
        rng.random(rates.size) < 0.5, np.clip(rates + rng.normal(0, 0.05, rates.size), 0, 1), rng.permutation(rates)
    )


def nothing(rng: np.random.Generator, rates: FloatArray) -> FloatArray:
    del rng
    return np.full(rates.size, 0.6)


@given(st.floats(0, 1), st.integers(1, 6), st.data())
def test_a_posterior_is_bayes_rule_on_the_grid(prior: float, k: int, data: st.DataObject) -> None:
    """Sum over the grid by hand, with the law between two values of V."""
    law = LEARNED.learned
    assert law is not None
    successes = data.draw(st.integers(0, k))
    place = prior * (NODES - 1)
    low = min(int(place), NODES - 2)
    chance = (low + 1 - place) * law.table[low] + (place - low) * law.table[low + 1]
    chance = chance * RATES**successes * (1 - RATES) ** (k - successes)
    mean = float(chance @ RATES / chance.sum())
    found = law.posterior(np.array([prior]), np.array([float(successes)]), np.array([float(k)]))
    assert found.mean[0] == pytest.approx(mean, rel=1e-9)
    assert found.variance[0] == pytest.approx(chance @ (RATES - mean) ** 2 / chance.sum(), abs=1e-12)


LEARNED = learned()


@given(st.floats(0.01, 64), st.floats(0, 1), st.integers(0, 5), st.data())
def test_a_beta_law_is_conjugate(strength: float, prior: float, k: int, data: st.DataObject) -> None:
    """The mean is (m V + sum y) / (m + k), the variance that of such a Beta law."""
    successes = data.draw(st.integers(0, k))
    found = BetaLaw(strength).posterior(np.array([prior]), np.array([float(successes)]), np.array([float(k)]))
    mean = (strength * prior + successes) / (strength + k)
    assert found.mean[0] == pytest.approx(mean)
    assert found.variance[0] == pytest.approx(mean * (1 - mean) / (strength + k + 1))


@pytest.mark.parametrize("prior", [0.0, 0.4, 1.0])
def test_a_given_strength_is_stated_at_any_prior(prior: float) -> None:
    """At 0 and 1 the law is a point, from whose moments no strength follows; it is m all the same."""
    groups = Groups.of([prior], [[prior, prior]])
    found = baselines.get("empirical_bayes")(groups, Reliability.known(0.05, 0.1))
    assert found.strength[0] == pytest.approx(2.0)
    assert found.weight[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("say", "against_pooled"), [(near_truth, 1.0), (reversed_truth, 0.6), (half_truth, 0.9), (nothing, 1.02)]
)
def test_errors_are_no_larger_than_one_beta_would_make(say: Draw, against_pooled: float) -> None:
    """On rates not learned from: against the truth, in squared error, beside the pooled Beta law m = S/D."""
    state, rng = learned(prior=say), np.random.default_rng(1)
    rates = rng.beta(0.5, 0.5, 20_000)
    prior, k = say(rng, rates), np.full(rates.size, 2.0)
    sums = rng.binomial(2, rates).astype(float)
    ours = float(np.mean((state.law.posterior(prior, sums, k).mean - rates) ** 2))
    pooled = BetaLaw(state.strength).posterior(state.prior_in_use(prior), sums, k)
    assert ours < against_pooled * float(np.mean((pooled.mean - rates) ** 2))


def test_errors_come_near_to_the_best_possible() -> None:
    """Within 6% of the posterior mean under the very law that rates and priors were drawn from."""
    rng = np.random.default_rng(2)
    rates = rng.beta(0.5, 0.5, 4000)
    prior, sums = near_truth(rng, rates), rng.binomial(2, rates).astype(float)
    grid = np.linspace(0.0005, 0.9995, 1000)
    density = (grid * (1 - grid)) ** -0.5
    said = np.exp(-0.5 * ((prior[:, None] - grid) / 0.15) ** 2)
    inside = (prior > 0) & (prior < 1)
    weight = density * said * grid ** sums[:, None] * (1 - grid) ** (2 - sums[:, None])
    best = (weight @ grid / weight.sum(axis=1) - rates)[inside]
    state = learned(groups=16_384)
    ours = (state.law.posterior(prior, sums, np.full(4000, 2.0)).mean - rates)[inside]
    assert np.mean(ours**2) < 1.06 * np.mean(best**2)


def test_groups_that_stopped_early_teach_the_same_law() -> None:
    """Stop as soon as a failure is seen: the law learned from such groups is that from groups of one size."""
    rng, state = np.random.default_rng(3), Reliability()
    for _ in range(48):
        rates = rng.beta(0.5, 0.5, 128)
        prior, drawn = near_truth(rng, rates), (rng.random((128, 6)) < rates[:, None]).astype(float)
        stop = np.maximum(2, 1 + np.argmin(np.concatenate([drawn, np.zeros((128, 1))], axis=1), axis=1))
        first = Groups.of(prior, drawn[:, :2].tolist())
        whole = Groups.of(prior, [row[: min(size, 6)] for row, size in zip(drawn.tolist(), stop, strict=True)])
        state = state.calibrate(first).learn(whole)
    asked, zeros = np.linspace(0.1, 0.9, 9), np.zeros(9)
    fixed = learned(groups=48 * 128).law.posterior(asked, zeros, zeros)
    np.testing.assert_allclose(state.law.posterior(asked, zeros, zeros).mean, fixed.mean, atol=0.06)
    np.testing.assert_allclose(
        np.sqrt(state.law.posterior(asked, zeros, zeros).variance), np.sqrt(fixed.variance), atol=0.05
    )


@given(st.floats(0, 1), st.integers(0, 4), st.data())
def test_the_next_rollout_saves_exactly_what_is_said(prior: float, k: int, data: st.DataObject) -> None:
    """Expected fall of the posterior variance over both answers of one more rollout, under any law."""
    successes = data.draw(st.integers(0, k))
    outcomes = [1.0] * successes + [0.0] * (k - successes)
    worth = stopping.get("posterior_variance").worth(Groups.of([prior], [outcomes]), LEARNED, 16)

    def after(more: list[float]) -> Posterior:
        return LEARNED.law.posterior(
            np.array([prior]), np.array([float(sum(outcomes + more))]), np.array([float(k + len(more))])
        )

    now = after([])
    expected = now.variance - now.mean * after([1.0]).variance - (1 - now.mean) * after([0.0]).variance
    assert worth.marginal(np.array([1]))[0] == pytest.approx(expected[0], rel=1e-6, abs=1e-12)


def test_partial_credit_counts_for_more_than_coin_flips() -> None:
    """Outcomes that scatter little about their mean: the dispersion is found, and halves the error at least."""
    rng, state = np.random.default_rng(4), Reliability()

    def outcomes(rates: FloatArray, k: int) -> FloatArray:
        return rng.beta(20 * rates[:, None], 20 * (1 - rates[:, None]), (rates.size, k))

    for _ in range(24):
        rates = rng.uniform(0.05, 0.95, 128)
        state = state.update(Groups.of(np.full(128, 0.5), outcomes(rates, 3).tolist()))
    assert state.dispersion == pytest.approx(1 / 21, rel=0.3)
    rates = rng.uniform(0.05, 0.95, 4000)
    prior, sums, sizes = np.full(4000, 0.5), outcomes(rates, 3).sum(axis=1), np.full(4000, 3.0)
    found = state.law.posterior(prior, sums, sizes)
    flips = BetaLaw(2.0).posterior(prior, sums, sizes)
    assert np.mean((found.mean - rates) ** 2) < 0.5 * np.mean((flips.mean - rates) ** 2)
    assert np.mean((found.mean - rates) ** 2 / found.variance) == pytest.approx(1.0, abs=0.35)


@pytest.mark.parametrize(("size", "tests"), [(16, 64), (128, 1), (200, 1), (1024, 1)])
def test_many_outcomes_are_never_worse_than_their_mean(size: int, tests: int) -> None:
    """Beyond what the grid can tell apart, too: the mean of the group is not beaten by much, but never lost to."""
    rng, state = np.random.default_rng(6), Reliability()
    for _ in range(12):
        rates = rng.random(128)
        outcomes = rng.binomial(tests, rates[:, None], (128, 4)) / tests
        state = state.update(Groups.of(near_truth(rng, rates), outcomes.tolist()))
    rates = rng.random(2000)
    sums = rng.binomial(tests, rates[:, None], (2000, size)).sum(axis=1) / tests
    found = state.law.posterior(near_truth(rng, rates), sums, np.full(2000, float(size)))
    assert np.mean((found.mean - rates) ** 2) < np.mean((sums / size - rates) ** 2)
    assert 0.3 < np.mean((found.mean - rates) ** 2 / found.variance) < 1.2


def test_binary_outcomes_have_no_dispersion_to_find() -> None:
    """Exactly 1, whatever the rates."""
    assert LEARNED.dispersion == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("law", [LEARNED.law, BetaLaw(3.0)])
def test_draws_have_the_moments_of_the_posterior(law: LearnedLaw | BetaLaw) -> None:
    """Before outcomes and after."""
    prior, sums, sizes = np.array([0.2, 0.5, 0.9]), np.array([0.0, 1.0, 3.0]), np.array([0.0, 3.0, 3.0])
    drawn = law.draw(prior, sums, sizes, rng=np.random.default_rng(0), draws=40_000)
    found = law.posterior(prior, sums, sizes)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    np.testing.assert_allclose(drawn.mean(axis=0), found.mean, atol=0.006)
    np.testing.assert_allclose(drawn.var(axis=0), found.variance, atol=0.004)


def test_neighbours_in_a_batch_change_no_bit() -> None:
    """A group is judged the same alone and among others."""
    rng = np.random.default_rng(5)
    prior, sizes = rng.random(300), rng.integers(0, 9, 300).astype(float)
    sums = np.floor(rng.random(300) * (sizes + 1))
    many = LEARNED.law.posterior(prior, sums, sizes)
    for i in range(0, 300, 30):
        alone = LEARNED.law.posterior(prior[i : i + 1], sums[i : i + 1], sizes[i : i + 1])
        assert (alone.mean[0], alone.variance[0]) == (many.mean[i], many.variance[i])


def test_large_batches_are_cut_and_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of any length give the same."""
    rng = np.random.default_rng(6)
    prior, sizes = rng.random(500), rng.integers(0, 9, 500).astype(float)
    sums = rng.random(500) * sizes
    whole = LEARNED.law.posterior(prior, sums, sizes)
    monkeypatch.setattr("rollout_budget.law.AT_ONCE", 7)
    cut = LEARNED.law.posterior(prior, sums, sizes)
    assert np.array_equal(whole.mean, cut.mean)
    assert np.array_equal(whole.variance, cut.variance)
    nobody = np.zeros(0)
    assert LEARNED.law.posterior(nobody, nobody, nobody).mean.shape == (0,)


@given(st.integers(1, 200), st.floats(0, 1))
def test_counting_keeps_means_and_bounds_sizes(size: int, rate: float) -> None:
    """Whatever sizes and sums come: the mean of what is kept is that of what came, in a bounded number of columns."""
    law = LearnedLaw().learned(np.array([0.3]), np.array([rate * size]), np.array([float(size)]), 1.0, 1.0)
    assert len(law.columns) <= 2
    assert all(k <= MAX_SIZE for k, _ in law.columns)
    assert law.groups == pytest.approx(1.0, abs=2e-4)
    mean = sum(total / k * sum(column) for (k, total), column in law.columns.items())
    assert mean == pytest.approx(rate, abs=2e-4)


def test_what_has_faded_is_forgotten() -> None:
    """Counts decay with later groups and leave no trace in the state."""
    assert LEARNED.learned is not None
    assert LEARNED.learned.scaled(1e-9).columns == {}


def test_a_law_survives_json() -> None:
    """What is stored is what is read, and it is strict JSON."""
    law = LEARNED.learned
    assert law is not None
    assert LearnedLaw.from_dict(json.loads(json.dumps(law.to_dict(), allow_nan=False))) == law


@pytest.mark.parametrize(
    "change",
    [
        {"shares": [1.0]},
        {"shares": [0.5, 0.5, 0.5, 0.0, 0.0]},
        {"seen": [float("nan")] * NODES},
        {"means": "much"},
        {"dispersion": 0.0},
        {"columns": [[2, 3.0, [1.0] * NODES]]},
        {"columns": [[2, 1.0, [-1.0] * NODES]]},
        {"columns": [[0, 0.0, [1.0] * NODES]]},
        {"columns": [[2, 1.0]]},
    ],
)
def test_a_broken_state_is_refused(change: dict[str, object]) -> None:
    """Named as what it is, before anything is decided with it."""
    with pytest.raises(InvalidInput, match="law of rates"):
        LearnedLaw.from_dict(LearnedLaw().to_dict() | change)
