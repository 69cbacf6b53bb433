"""Scores of values that were given before their evidence came."""

from __future__ import annotations

import pytest

from rollout_budget.wire import EvidenceRow
from services.prior_api.quality import levels_of, quality
from services.prior_api.records import Level, Scores


def row(version: int, successes: float, trials: int) -> EvidenceRow:
    return EvidenceRow(
        id=f"{version}-{successes}-{trials}", key="p", version=version, successes=successes, trials=trials
    )


def test_levels_add_rows_up_by_version() -> None:
    """Sums by version; single trials say nothing of the variance within."""
    first, second = levels_of([row(2, 1, 1), row(1, 1, 4), row(1, 2, 4)])
    assert first == Level(1, 2, 8, 3.0, 0.75, 0.0625 + 0.25, first.within, 2, 0.5)
    assert first.within == pytest.approx(0.25 + 1 / 3)
    assert second == Level(2, 1, 1, 1.0, 1.0, 1.0, 0, 0, 1.0)


def test_quality_takes_outcome_noise_out() -> None:
    """Rates 0.25 and 0.75 of 4 trials: variance and error shrink by the noise of a mean of 4 outcomes, 0.25 / 4."""
    (level,) = levels_of([row(1, 1, 4), row(1, 3, 4)])
    both_at_half = Scores(1, 5, 2, 1.0, 1.0, 0.625, 0.125, 0.5)
    answer = quality(level, [both_at_half])
    assert answer.predicted == 2
    assert answer.squared_error == pytest.approx(0.0625 - 0.25 / 4)
    assert answer.explained_variance is None
    assert answer.calibration_error == 0.0


def test_quality_of_a_perfect_and_of_a_useless_prior() -> None:
    """Values equal to certain rates explain all variance; their mean for every prompt explains none."""
    (level,) = levels_of([row(1, 0, 4), row(1, 4, 4)])
    perfect = [Scores(1, 0, 1, 0.0, 0.0, 0.0, 0.0, 0.25), Scores(1, 9, 1, 1.0, 1.0, 1.0, 0.0, 0.25)]
    useless = [Scores(1, 5, 2, 1.0, 1.0, 1.0, 0.5, 0.5)]
    assert quality(level, perfect).explained_variance == 1.0
    assert quality(level, useless).explained_variance == 0.0


def test_calibration_error_weighs_tenths_by_their_rows() -> None:
    """Three rows predicted 0.9 that came out 0.6, one predicted 0.1 that came out 0.1: (3 * 0.3 + 0) / 4."""
    (level,) = levels_of([row(1, 1, 2)])
    scores = [Scores(1, 9, 3, 2.7, 1.8, 1.08, 0.27, 1.5), Scores(1, 1, 1, 0.1, 0.1, 0.01, 0.0, 0.5)]
    assert quality(level, scores).calibration_error == pytest.approx(0.225)


def test_quality_without_predictions_says_nothing() -> None:
    """Evidence alone gives counts and the mean."""
    (level,) = levels_of([row(1, 1, 4)])
    answer = quality(level, [])
    assert (answer.mean, answer.predicted, answer.squared_error) == (0.25, 0, None)
