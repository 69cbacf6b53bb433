"""Estimators of other papers: their formulas against plain loops, their bias by exact enumeration."""

from __future__ import annotations

import statistics
from itertools import product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget import baselines, stopping
from rollout_budget.baselines.beta_history import MOST_COUNTS, STARTING_COUNTS, counts
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.wire import Estimator, Stopping
from tests.core.enumeration import patterns, probabilities, same_prior

FRESH = Reliability()
outcome = st.sampled_from([0.0, 0.25, 1.0])


def test_every_estimator_and_rule_can_be_chosen_on_the_wire() -> None:
    """The names of the wire are those of the core."""
    assert set(get_args(Estimator)) == set(baselines.ESTIMATORS)
    assert set(get_args(Stopping)) == set(stopping.RULES)


def paper_james_stein(rows: list[list[float]], i: int, j: int) -> float:
    """Return the baseline of sample j of prompt i as the paper writes it: n prompts, m rollouts each."""
    n, m = len(rows), len(rows[0])
    others = [row for h, row in enumerate(rows) if h != i]
    means = [sum(row) / m for row in others]
    centre = sum(means) / (n - 1)
    v = sum(sum((y - mean) ** 2 for y in row) / (m * (m - 1)) for row, mean in zip(others, means, strict=True)) / (
        n - 1
    )
    s = sum((mean - centre) ** 2 for mean in means) / (n - 1)
    share = (n - 1) / n * v / (v + s) if v + s > 1e-12 else 0.0
    siblings = [y for h, y in enumerate(rows[i]) if h != j]
    return (1 - share) * sum(siblings) / (m - 1) + share * centre


@given(st.integers(2, 5).flatmap(lambda m: st.lists(st.lists(outcome, min_size=m, max_size=m), min_size=2, max_size=5)))
def test_james_stein_is_the_papers(rows: list[list[float]]) -> None:
    """Equal groups get the baselines of a loop over the paper's formulas."""
    result = baselines.get("james_stein")(Groups.of([0.5] * len(rows), rows), FRESH)
    expected = [paper_james_stein(rows, i, j) for i, row in enumerate(rows) for j in range(len(row))]
    np.testing.assert_allclose(result.per_sample, expected, atol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("others", [[[1.0, 0.0], [1.0, 1.0, 0.0]], [[1.0], [0.0]], [[0.0, 0.0]], [[]]])
def test_james_stein_is_unbiased_whatever_the_other_prompts(k: int, p: float, others: list[list[float]]) -> None:
    """With the others held fixed, the expected gradient over all patterns of a group is the true one."""
    estimator, total = baselines.get("james_stein"), 0.0
    drawn = patterns(k)
    for pattern, chance in zip(drawn, probabilities(drawn, p), strict=True):
        own = estimator(Groups.of([0.3] * (1 + len(others)), [pattern, *others]), FRESH).per_sample[:k]
        y = np.array(pattern)
        total += chance * float(((y - own) * (y - p)).sum()) / k
    assert total == pytest.approx(p * (1 - p), abs=1e-12)


def test_james_stein_gives_singletons_the_mean_of_the_others() -> None:
    """No siblings: the other prompts' means stand in; nobody else at all: V."""
    several = Groups.of([0.9, 0.9, 0.9], [[1.0], [0.0], [1.0]])
    np.testing.assert_allclose(baselines.get("james_stein")(several, FRESH).per_sample, [0.5, 1.0, 0.5])
    assert baselines.get("james_stein")(Groups.of([0.9], [[1.0]]), FRESH).per_sample.tolist() == [0.9]


def test_james_stein_shrinks_all_the_way_where_prompts_do_not_differ() -> None:
    """Equal means with noise within: l = (n - 1)/n, so next to nothing is left of the group's own mean."""
    groups = Groups.of([0.5] * 10, [[1.0, 0.0]] * 10)
    assert baselines.get("james_stein")(groups, FRESH).weight == pytest.approx(np.full(10, 0.1))


def learned() -> Reliability:
    """Return a run of 4,000 groups of 4 whose rates are 0.2 and 0.8 in turn."""
    rng = np.random.default_rng(0)
    rate = np.tile([0.2, 0.8], 2000)
    return FRESH.update(Groups.of(rate, (rng.random((4000, 4)) < rate[:, None]).astype(float).tolist()))


@pytest.mark.parametrize("outcomes", [[1.0], [1.0, 0.0], [0.25, 1.0, 1.0, 0.5]])
def test_ebpo_is_the_papers(outcomes: list[float]) -> None:
    """The shrunk mean from the run's own global mean and variances, the same for every sample."""
    state = learned()
    between = state.pair_square / state.pair_weight - (state.pair_mean / state.pair_weight) ** 2
    noise = state.within_variance / len(outcomes)
    share = noise / (noise + between)
    assert state.running_mean is not None
    expected = (1 - share) * statistics.mean(outcomes) + share * state.running_mean
    result = baselines.get("ebpo")(Groups.of([0.1], [outcomes]), state)
    assert between == pytest.approx(0.09, abs=0.01)
    assert result.value == pytest.approx([expected])
    assert result.per_sample == pytest.approx([expected] * len(outcomes))


def test_ebpo_of_a_fresh_run_is_the_group_mean() -> None:
    """Nothing global is known yet: nothing is shrunk."""
    groups = Groups.of([0.9, 0.9], [[1.0, 0.0], [1.0]])
    assert baselines.get("ebpo")(groups, FRESH).value.tolist() == [0.5, 1.0]


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_ebpo_loses_its_own_share_of_the_gradient(k: int, p: float) -> None:
    """A sample in its own baseline costs (1 - S)/k of the expected gradient, exactly."""
    drawn, state = patterns(k), learned()
    groups = same_prior(0.5, drawn)
    result = baselines.get("ebpo")(groups, state)
    terms = (groups.outcomes - result.per_sample) * (groups.outcomes - p)
    gradient = probabilities(drawn, p) @ np.bincount(groups.owner, terms) / k
    assert gradient / (p * (1 - p)) - 1 == pytest.approx(-float(result.weight[0]) / k, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (3.0, 1.0), (2.0, 12.0), (12.0, 13.0)])
def test_beta_history_reads_the_counts_back(a: float, b: float) -> None:
    """V and its standard error give a + b again, and the value counts the group's own outcomes on top."""
    mean = a / (a + b)
    error = (mean * (1 - mean) / (a + b + 1)) ** 0.5
    groups = Groups.of([mean], [[1.0, 0.25]], prior_errors=[error])
    assert counts(groups) == pytest.approx([a + b])
    result = baselines.get("beta_history")(groups, FRESH)
    assert result.value == pytest.approx([(a + 1.25) / (a + b + 2)])
    assert result.per_sample == pytest.approx([mean, mean])


def test_beta_history_bounds_its_counts() -> None:
    """No error known: SPO's start; an error of 0, or a prompt that never failed: SPO's most; a wild one: next to none."""
    groups = Groups.of([0.5, 0.5, 1.0, 0.5], [[]] * 4, prior_errors=[float("nan"), 0.0, 0.0, 9.0])
    assert counts(groups)[:3] == pytest.approx([STARTING_COUNTS, MOST_COUNTS, MOST_COUNTS])
    assert 0 < counts(groups)[3] < 0.01


@pytest.mark.parametrize("k", [1, 2, 4])
def test_beta_history_is_unbiased(k: int) -> None:
    """V has seen none of the group."""
    for prior, p in product((0.1, 0.5), (0.2, 0.7)):
        drawn = patterns(k)
        groups = same_prior(prior, drawn)
        terms = (groups.outcomes - baselines.get("beta_history")(groups, FRESH).per_sample) * (groups.outcomes - p)
        gradient = probabilities(drawn, p) @ np.bincount(groups.owner, terms) / k
        assert gradient == pytest.approx(p * (1 - p), abs=1e-12)
