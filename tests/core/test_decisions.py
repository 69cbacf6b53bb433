"""Decisions: settings become rules on the unit scale, batches of any shape are answered, quickly."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget import allocation, baselines, stopping
from rollout_budget.decisions import OUR_PRICE, PAPER_PRICE, Rules, first_wave, next_wave, sample_baselines
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.wire import DecisionSettings, Range

KNOWN = Reliability.known(1 / 12, 1 / 6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 10.0)])
def test_the_default_price_is_the_same_on_every_scale(low: float, high: float) -> None:
    """On {-1, +1} 1/8^2, and the paper's 1/16^2 for its own rule; a quarter of that on the unit scale, whatever the range."""
    here = Range(low=low, high=high)
    assert Rules.of(DecisionSettings(outcome_range=here)).price == OUR_PRICE / 4
    assert Rules.of(DecisionSettings(outcome_range=here, stopping="osla")).price == PAPER_PRICE / 4


def test_settings_become_rules() -> None:
    """Names are looked up, `auto` is 0, the price leaves the caller's scale."""
    rules = Rules.of(
        DecisionSettings(
            outcome_range=Range(low=-1, high=1),
            estimator="v05",
            stopping="osla",
            price=0.4,
            k_init="auto",
            k_max=9,
            advantage_samples="first_wave",
        )
    )
    expected = Rules(baselines.get("v05"), stopping.get("osla"), 0.1, 0, 9, first_wave_only=True)
    assert rules == expected


@pytest.mark.parametrize("estimator", sorted(baselines.ESTIMATORS))
@pytest.mark.parametrize("rule", sorted(stopping.RULES))
def test_an_empty_batch_is_answered(estimator: str, rule: str) -> None:
    """No groups in, no groups out."""
    rules = Rules(baselines.get(estimator), stopping.get(rule))
    nothing = Groups.of([], [])
    for plan in (first_wave(rules, nothing, KNOWN), next_wave(rules, nothing, KNOWN)):
        assert plan.wanted.shape == plan.baselines.value.shape == (0,)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.lists(st.sampled_from([0.0, 1.0]), max_size=6)), min_size=1, max_size=8),
    st.sampled_from(sorted(stopping.RULES)),
    st.data(),
)
def test_each_group_is_decided_on_its_own(
    batch: list[tuple[float, list[float]]], rule: str, data: st.DataObject
) -> None:
    """What a group wants depends neither on its neighbours nor on its place."""
    order = data.draw(st.permutations(range(len(batch))))
    rules = Rules(baselines.get("empirical_bayes"), stopping.get(rule))
    groups = Groups.of([prior for prior, _ in batch], [outcomes for _, outcomes in batch])
    mixed = Groups.of([batch[i][0] for i in order], [batch[i][1] for i in order])
    wanted = next_wave(rules, groups, KNOWN).wanted
    assert next_wave(rules, mixed, KNOWN).wanted.tolist() == wanted[order].tolist()


def test_baselines_of_all_samples_are_the_estimators() -> None:
    """By default every sample carries an advantage."""
    groups = Groups.of([0.2, 0.7], [[1.0, 0.0, 1.0], [0.0]])
    rules = Rules(baselines.get("empirical_bayes"), stopping.get("posterior_variance"))
    values, carries = sample_baselines(rules, groups, KNOWN, np.array([2, 1]), rules.estimator(groups, KNOWN))
    np.testing.assert_array_equal(values, rules.estimator(groups, KNOWN).per_sample)
    assert carries.all()


def test_baselines_of_the_first_wave_do_not_see_later_ones() -> None:
    """With `first_wave_only` the later outcome changes nothing, and a group cut short is no error."""
    rules = Rules(baselines.get("leave_one_out"), stopping.get("posterior_variance"), first_wave_only=True)
    first = np.array([2, 4, 1])
    for late in (0.0, 1.0):
        groups = Groups.of([0.2, 0.7, 0.4], [[1.0, 0.0, late], [0.0], []])
        values, carries = sample_baselines(rules, groups, KNOWN, first, rules.estimator(groups, KNOWN))
        assert values[carries].tolist() == [0.0, 1.0, 0.7]
        assert carries.tolist() == [True, True, False, True]


def test_a_biased_prior_is_set_right_by_ours_but_not_by_the_paper() -> None:
    """What prompts of this V really do takes over in `empirical_bayes`; `v05` is the paper, guard and all left out."""
    bad = Reliability().update(Groups.of([0.95] * 256, [[1.0, 0.0, 0.0, 0.0], [0.0] * 4] * 128))
    groups = Groups.of([0.95], [[]])
    ours = baselines.get("empirical_bayes")(groups, bad)
    assert ours.value[0] == pytest.approx(bad.running_mean, abs=0.03)
    assert not ours.trusted[0]
    assert baselines.get("v05")(groups, bad).value[0] == 0.95


def test_a_hundred_thousand_unequal_groups_take_less_than_a_second() -> None:
    """Baselines, worth, wish and a share under a cap, on one core."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 17, 100_000)
    prior = rng.random(100_000)
    outcomes = (rng.random(sizes.sum()) < np.repeat(prior, sizes)).astype(np.float64)
    rules = Rules(baselines.get("empirical_bayes"), stopping.get("posterior_variance"))
    start = time.process_time()
    groups = Groups(prior, np.full(prior.shape, np.nan), sizes, outcomes)
    plan = next_wave(rules, groups, KNOWN)
    cap = int(plan.wanted.sum()) // 2
    granted = allocation.share(plan.worth, plan.wanted, cap)
    assert time.process_time() - start < 1.0
    assert granted.sum() == cap
