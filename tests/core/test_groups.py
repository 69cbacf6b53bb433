"""Outcome ranges and ragged groups: conversion both ways, sums by group, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.errors import InvalidInput
from rollout_budget.groups import Groups
from rollout_budget.outcomes import OutcomeRange

BAD = [math.nan, math.inf, -math.inf, 1.0001, -0.0001]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(0, 1))
def test_there_and_back(low: float, width: float, value: float) -> None:
    """A value on the unit scale survives the caller's scale; its ends map to the ends exactly."""
    scale = OutcomeRange(low, low + width)
    there = np.clip(scale.from_unit(value), scale.low, scale.high)
    assert scale.to_unit(there) == pytest.approx(value, abs=1e-6)
    assert scale.to_unit([scale.low, scale.high]).tolist() == [0.0, 1.0]


def test_squares_scale_with_the_square_of_the_width() -> None:
    """The paper's noise bound 1/k on {-1, +1} is 1/(4k) on the unit scale."""
    signed = OutcomeRange(-1, 1)
    assert signed.squared_to_unit(1 / 4) == 1 / 16
    assert signed.squared_from_unit(1 / 16) == 1 / 4


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (math.nan, 1), (0, math.inf), (-1e308, 1e308)])
def test_impossible_ranges_are_refused(low: float, high: float) -> None:
    """Low below high, both finite, and so is their distance."""
    with pytest.raises(InvalidInput):
        OutcomeRange(low, high)


@pytest.mark.parametrize("bad", BAD)
def test_outcomes_and_priors_out_of_range_are_refused(bad: float) -> None:
    """NaN, infinities and what lies outside never get in."""
    with pytest.raises(InvalidInput):
        Groups.of([0.5], [[bad]])
    with pytest.raises(InvalidInput):
        Groups.of([bad], [[0.5]])


def test_lengths_must_agree() -> None:
    """One prior per group, sizes that sum to the outcomes."""
    with pytest.raises(InvalidInput):
        Groups.of([0.5], [[1.0], [0.0]])
    flat = np.array([0.5])
    with pytest.raises(InvalidInput):
        Groups(flat, flat, np.array([2]), flat)
    with pytest.raises(InvalidInput):
        Groups(flat, flat, np.array([1, 0]), flat)


def test_sums_means_and_variances_by_group() -> None:
    """Unequal groups, an empty one and a singleton; NaN where there is nothing to say."""
    groups = Groups.of([0.5] * 4, [[1.0, 0.0, 1.0], [], [1.0], [0.25, 0.75]])
    assert len(groups) == 4
    assert groups.owner.tolist() == [0, 0, 0, 2, 3, 3]
    np.testing.assert_allclose(groups.sums, [2, 0, 1, 1])
    np.testing.assert_allclose(groups.means, [2 / 3, math.nan, 1, 0.5])
    np.testing.assert_allclose(groups.sample_variances, [1 / 3, math.nan, math.nan, 0.125])
    assert groups.split(groups.outcomes) == [[1.0, 0.0, 1.0], [], [1.0], [0.25, 0.75]]


def test_standard_errors_leave_the_callers_scale_with_the_width() -> None:
    """A standard error is a distance, not a place."""
    groups = Groups.of([0.0], [[]], prior_errors=[0.5], outcome_range=OutcomeRange(-1, 1))
    assert groups.prior_error.tolist() == [0.25]


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 1.0]), max_size=5), max_size=6))
def test_uniform_groups_have_no_two_different_outcomes(outcomes: list[list[float]]) -> None:
    """True where all are equal, and where there is none or one."""
    groups = Groups.of([0.5] * len(outcomes), outcomes)
    assert groups.uniform.tolist() == [len(set(group)) <= 1 for group in outcomes]
