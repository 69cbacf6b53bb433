"""Reliability: unbiased by enumeration, indifferent to order, mergeable, safe as JSON, and quick to drop a bad prior."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.errors import InvalidInput
from rollout_budget.groups import Groups
from rollout_budget.reliability import (
    COLD_SQUARED_ERROR,
    COLD_WITHIN_VARIANCE,
    HALF_LIFE_GROUPS,
    MAX_HANDED_ON_GROUPS,
    MAX_STRENGTH,
    MIN_GROUPS_TO_JUDGE,
    Reliability,
)
from tests.core.enumeration import PRIORS, RATES, patterns, probabilities, same_prior

ASKED = (np.array([0.1, 0.8]), np.array([1.0, 2.0]), np.array([3.0, 2.0]))
"""Priors, sums and sizes whose posterior is compared."""
batches = st.lists(
    st.tuples(st.floats(0, 1), st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=5)), min_size=1, max_size=8
)


def build(batch: list[tuple[float, list[float]]]) -> Groups:
    return Groups.of([prior for prior, _ in batch], [outcomes for _, outcomes in batch])


def assert_same(one: Reliability, other: Reliability) -> None:
    """All sums are equal; what is fitted to them starts from elsewhere, so it may differ a little."""
    sums = other.to_dict()
    for name, value in one.to_dict().items():
        if name != "learned":
            np.testing.assert_allclose(sums[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    assert one.learned is not None
    assert other.learned is not None
    np.testing.assert_allclose(other.learned.table, one.learned.table, atol=0.02)


def simulated(
    seed: int, groups: int, k: int, *, error: float = 0.1, prior: float | None = None, start: Reliability | None = None
) -> Reliability:
    """Learn from groups with uniform rates whose priors miss by about `error`, or are all the same."""
    rng = np.random.default_rng(seed)
    state = start or Reliability()
    for _ in range(groups // 64):
        rate = rng.random(64)
        values = np.full(64, prior) if prior is not None else np.clip(rate + rng.normal(0, error, 64), 0, 1)
        state = state.update(Groups.of(values, (rng.random((64, k)) < rate[:, None]).astype(float).tolist()))
    return state


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("prior", PRIORS)
def test_what_is_pooled_is_unbiased(k: int, p: float, prior: float) -> None:
    """Over all patterns, the sums for D, S and p^2 have exactly the expectations they stand for."""
    drawn = patterns(k)
    states = [Reliability().update(same_prior(prior, [pattern])) for pattern in drawn]
    chance = probabilities(drawn, p)
    assert chance @ [state.pair_error for state in states] == pytest.approx((p - prior) ** 2, abs=1e-12)
    assert chance @ [state.pair_variance for state in states] == pytest.approx(p * (1 - p), abs=1e-12)
    assert chance @ [state.pair_square for state in states] == pytest.approx(p * p, abs=1e-12)
    assert chance @ [state.score for state in states] == pytest.approx((p - prior) ** 2 + p * (1 - p), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_gain_over_the_mean_is_free_of_noise_for_any_size(k: int) -> None:
    """ybar^2 - (ybar - V)^2 expects p^2 - (p - V)^2: single samples judge a prior as well as groups do."""
    drawn = patterns(k)
    states = [Reliability().update(same_prior(0.8, [pattern])) for pattern in drawn]
    gain = probabilities(drawn, 0.3) @ [state.square - state.error for state in states]
    assert gain == pytest.approx(0.3**2 - 0.5**2, abs=1e-12)


def test_a_fresh_run_knows_nothing_and_says_so() -> None:
    """Cold start: the uniform law, m = 2, nothing measured, the prior not yet judged."""
    fresh = Reliability()
    assert (fresh.squared_prior_error, fresh.within_variance) == (COLD_SQUARED_ERROR, COLD_WITHIN_VARIANCE)
    assert fresh.strength == pytest.approx(2.0)
    assert fresh.prior_usable
    unknown = (fresh.running_mean, fresh.explained_variance, fresh.brier, fresh.calibration_error, fresh.rejected_share)
    assert unknown == (None,) * 5


@given(st.floats(0, 10), st.floats(0, 10))
def test_given_figures_are_those_in_use(squared_error: float, variance: float) -> None:
    """`known` states D and S without a history."""
    known = Reliability.known(squared_error, variance)
    assert known.squared_prior_error == pytest.approx(squared_error, abs=1e-12)
    assert known.within_variance == pytest.approx(variance, abs=1e-12)
    assert known.explained_variance is None


@pytest.mark.parametrize("figures", [(-1.0, 0.1), (float("nan"), 0.1), (0.1, float("inf"))])
def test_impossible_figures_are_refused(figures: tuple[float, float]) -> None:
    """Negative or not finite: no state is made."""
    with pytest.raises(InvalidInput):
        Reliability.known(*figures)


def test_d_and_s_are_learned() -> None:
    """Uniform rates, priors off by 0.1: D near 0.01 (less what clipping takes), S near 1/6, most variance explained."""
    learned = simulated(0, 8192, 4)
    assert learned.squared_prior_error == pytest.approx(0.009, abs=0.003)
    assert learned.within_variance == pytest.approx(1 / 6, abs=0.01)
    assert learned.explained_variance == pytest.approx(0.89, abs=0.04)
    assert learned.brier == pytest.approx(1 / 6 + 0.009, abs=0.012)
    assert learned.running_mean == pytest.approx(0.5, abs=0.03)
    assert learned.prior_usable


def test_a_perfect_prior_is_not_trusted_without_bound() -> None:
    """D = 0 gives the largest strength, not infinity."""
    assert Reliability.known(0.0, 0.25).strength == MAX_STRENGTH
    assert Reliability.known(0.0, 0.0).strength == MAX_STRENGTH


@given(batches, st.data())
def test_the_order_within_an_update_does_not_matter(
    batch: list[tuple[float, list[float]]], data: st.DataObject
) -> None:
    """Groups of one update are a set."""
    order = data.draw(st.permutations(range(len(batch))))
    start = Reliability().update(Groups.of([0.4], [[1.0, 0.0]]))
    one, other = start.update(build(batch)), start.update(build([batch[i] for i in order]))
    assert_same(one, other)
    np.testing.assert_allclose(other.law.posterior(*ASKED).mean, one.law.posterior(*ASKED).mean, rtol=1e-9)


@given(batches, batches, batches)
def test_merge_is_commutative_and_associative(
    a: list[tuple[float, list[float]]], b: list[tuple[float, list[float]]], c: list[tuple[float, list[float]]]
) -> None:
    """Shards of a run can be put together in any order."""
    x, y, z = (Reliability().update(build(batch)) for batch in (a, b, c))
    assert_same(x.merge(y), y.merge(x))
    assert_same(x.merge(y).merge(z), x.merge(y.merge(z)))
    assert x.merge(Reliability()) == x


@given(batches)
def test_state_survives_json(batch: list[tuple[float, list[float]]]) -> None:
    """What is stored is what is read, and it is strict JSON."""
    state = Reliability().update(build(batch))
    assert Reliability.from_dict(json.loads(json.dumps(state.to_dict(), allow_nan=False))) == state


@pytest.mark.parametrize(
    "change",
    [
        {"weight": float("nan")},
        {"weight": -1.0},
        {"bin_prior": [0.0]},
        {"bin_mean": 0.0},
        {"mean": "much"},
        {"groups": None},
        {"unknown": 1.0},
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, object]) -> None:
    """A state that `to_dict` did not write is an error, not a guess."""
    with pytest.raises(InvalidInput):
        Reliability.from_dict(Reliability().to_dict() | change)


def test_a_state_with_a_missing_field_is_refused() -> None:
    """Fields are all there or the state is not one of ours."""
    state = Reliability().to_dict()
    del state["error"]
    with pytest.raises(InvalidInput):
        Reliability.from_dict(state)


def test_groups_without_outcomes_teach_nothing() -> None:
    """K = 0 is neither counted nor weighed."""
    assert Reliability().update(Groups.of([0.3, 0.9], [[], []])) == Reliability()


def test_evidence_counts_half_after_its_half_life() -> None:
    """Sums decay by groups learned from, not by calls."""
    start = Reliability().update(Groups.of([0.5], [[1.0, 0.0]]))
    later = start.update(Groups.of(np.full(int(HALF_LIFE_GROUPS), 0.5), [[1.0]] * int(HALF_LIFE_GROUPS)))
    assert later.pair_weight == pytest.approx(0.5)
    assert later.groups == 1 + HALF_LIFE_GROUPS


@pytest.mark.parametrize("observed", [True, False])
def test_a_new_run_starts_with_few_groups_and_the_same_figures(*, observed: bool) -> None:
    """At most 128 of the sums, of the first waves and of the whole groups that the law remembers longer."""
    state, rng = Reliability(), np.random.default_rng(0)
    for _ in range(20):
        rates = rng.beta(0.5, 0.5, 128)
        groups = Groups.of(rates, (rng.random((128, 3)) < rates[:, None]).astype(float).tolist())
        state = state.update(groups) if observed else state.learn(groups)
    new = state.handed_on()
    assert state.learned is not None
    assert new.learned is not None
    assert new.groups == 0
    assert state.learned.groups > 1500
    assert new.learned.groups == pytest.approx(MAX_HANDED_ON_GROUPS, rel=0.01)
    assert max(new.weight, sum(new.learned.seen)) <= MAX_HANDED_ON_GROUPS * (1 + 1e-9)
    np.testing.assert_allclose(new.law.posterior(*ASKED).mean, state.law.posterior(*ASKED).mean, atol=0.05)
    if observed:
        assert new.weight == pytest.approx(MAX_HANDED_ON_GROUPS)
        assert new.explained_variance == pytest.approx(state.explained_variance)


def test_singletons_alone_let_old_figures_fade() -> None:
    """Without groups of two or more, D and S return towards the cold start, so that they are measured again."""
    strong = simulated(1, 2048, 4, error=0.02)
    faded = simulated(2, 8 * 2048, 1, error=0.02, start=strong)
    assert strong.strength > 20
    assert faded.strength < 3


def test_a_bad_prior_is_dropped_and_can_come_back() -> None:
    """Priors that predict worse than the mean are replaced by it; scored on, they are used again once they are good."""
    bad = simulated(3, 1024, 4, prior=0.95)
    assert not bad.prior_usable
    assert bad.explained_variance is not None
    assert bad.explained_variance <= 0
    assert bad.prior_in_use(np.array([0.95, 0.1])).tolist() == [bad.running_mean] * 2
    assert bad.strength == pytest.approx(2.0, abs=0.3)
    again = simulated(4, 4096, 4, error=0.05, start=bad)
    assert again.prior_usable
    np.testing.assert_array_equal(again.prior_in_use(np.array([0.95, 0.1])), [0.95, 0.1])


def test_no_prior_is_dropped_before_enough_groups_were_seen() -> None:
    """A handful of groups does not judge a prior."""
    few = Reliability().update(Groups.of([0.9] * 8, [[0.0, 0.0]] * 8))
    assert few.weight < MIN_GROUPS_TO_JUDGE
    assert few.prior_usable


def test_explained_variance_is_unknown_where_nothing_varies() -> None:
    """All groups alike: there is no variance to explain, and no division by it."""
    same = Reliability().update(Groups.of([0.5] * 100, [[1.0, 1.0]] * 100))
    assert same.explained_variance is None


@pytest.mark.parametrize("shift", [-0.2, 0.0, 0.3])
def test_calibration_error_is_the_shift_of_a_shifted_prior(shift: float) -> None:
    """Priors that are right on average have little; shifted ones have their shift."""
    rng = np.random.default_rng(5)
    rate = rng.uniform(0.3, 0.7, 20_000)
    outcomes = (rng.random((20_000, 2)) < rate[:, None]).astype(float)
    state = Reliability().update(Groups.of(rate + shift, outcomes.tolist()))
    assert state.calibration_error == pytest.approx(abs(shift), abs=0.02)


def test_rejections_are_counted_by_the_papers_test() -> None:
    """Beyond 1/(2 sqrt k), strictly."""
    state = Reliability().update(Groups.of([0.25, 0.2, 0.75, 0.9], [[1.0, 1.0, 0.0, 0.0]] * 4))
    assert state.rejected_share == 0.5
