"""Rows appended to a fitted process: the same posterior as a fit on all rows, whatever the order they came in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rollout_budget.outcomes import FloatArray
from services.prior_api.heads import GaussianProcess, Question
from services.prior_api.heads.base import Context
from services.prior_api.heads.gp import GaussianProcessFit, _solve
from services.prior_api.heads.kernel import Pairs
from services.prior_api.heads.unit import OnUnitVectors
from services.prior_api.heads.updates import Growing, append, larger
from services.prior_api.records import Cell
from tests.prior_api.fakes import WIDTH, embed

FEATURES = {f"h{i}": embed(f"word{i % 5} number{i}") for i in range(60)}


def cell(place: int, version: int, successes: float = 2, policy: str = "m", trials: int = 4) -> Cell:
    return Cell("t", policy, f"p{place}", f"h{place}", version, successes, trials, 1)


def question(version: int = 3) -> Question:
    places = range(60)
    return Question(("t", "m"), version, [f"h{i}" for i in places], FEATURES, [[] for _ in places], [])


def cells(seed: int, count: int, versions: range, policy: str = "m") -> list[Cell]:
    source = np.random.default_rng(seed)
    drawn = source.choice(60 * len(versions), count, replace=False)
    return [cell(int(i) % 60, versions[int(i) // 60], float(source.integers(0, 5)), policy) for i in drawn]


def test_appending_to_a_factor_is_factoring_the_whole() -> None:
    """On a random positive definite matrix, against numpy's own factor and solution."""
    source = np.random.default_rng(1)
    half = source.normal(size=(40, 60))
    matrix = np.asarray(half @ half.T / 60 + np.eye(40), dtype=np.float64)
    residuals = source.normal(size=40)
    factor = np.linalg.cholesky(matrix[:30, :30]).astype(np.float32)
    weights: FloatArray = np.linalg.solve(matrix[:30, :30], residuals[:30]).astype(np.float64)
    across = matrix[:30, 30:].astype(np.float32)
    whole, solved = append(factor, weights, across, matrix[30:, 30:], residuals[30:])
    assert np.abs(whole - np.linalg.cholesky(matrix)).max() < 1e-5
    assert np.abs(solved - np.linalg.solve(matrix, residuals)).max() < 1e-5


@pytest.mark.parametrize("pieces", [1, 3, 7])
def test_a_grown_fit_is_the_posterior_of_all_rows(pieces: int) -> None:
    """In any number of pieces and any order, against one solution over all rows with shape and law held fixed."""
    start, more = cells(0, 80, range(2)), cells(1, 42, range(2, 4)) + cells(2, 20, range(1), "other")
    fit: GaussianProcessFit = GaussianProcess(WIDTH).fit(Context(start, FEATURES))
    table = larger(fit.table, Context(more, FEATURES))
    factor, weights, _ = _solve(table, Pairs.of(table.points, table.points), fit.shape)
    whole = GaussianProcessFit(table, fit.shape, factor.astype(np.float32), weights).values(question())
    shuffled = [more[place] for place in np.random.default_rng(pieces).permutation(len(more))]
    for part in range(pieces):
        fit = fit.grown(Context(shuffled[part::pieces], FEATURES))
    grown = fit.values(question())
    assert fit.weights.size == 142
    assert np.abs(grown.values - whole.values).max() < 1e-5
    assert np.abs(grown.standard_errors - whole.standard_errors).max() < 1e-5


def test_rows_older_than_the_fit_are_left_to_histories() -> None:
    """A full fit leaves out what is older than its oldest row, and counts it with the prompt asked; so does a grown one."""
    fit = GaussianProcess(WIDTH).fit(Context(cells(0, 60, range(5, 7)), FEATURES))
    assert fit.grown(Context([cell(1, 4), cell(2, 3)], FEATURES)) is fit


def test_a_second_row_of_a_cell_counts_twice() -> None:
    """More outcomes of one prompt and version move its value further and make it surer."""
    fit = GaussianProcess(WIDTH).fit(Context(cells(0, 60, range(1)), FEATURES))
    once = fit.grown(Context([cell(1, 3, 4.0)], FEATURES))
    twice = once.grown(Context([cell(1, 3, 4.0)], FEATURES))
    first, second = (found.values(question()) for found in (once, twice))
    assert second.values[1] > first.values[1]
    assert second.standard_errors[1] < first.standard_errors[1]


def test_features_of_another_form_grow_too() -> None:
    """A fit on vectors that are not of length 1 takes rows with such vectors, and equals the fit inside."""
    long = {name: 3 * vector for name, vector in FEATURES.items()}
    start, more = cells(0, 60, range(1)), cells(1, 20, range(1, 3))
    wrapped = OnUnitVectors(GaussianProcess(WIDTH)).fit(Context(start, long))
    assert isinstance(wrapped, Growing)
    bare = GaussianProcess(WIDTH).fit(Context(start, FEATURES)).grown(Context(more, FEATURES))
    asked = wrapped.grown(Context(more, long)).values(replace(question(), features=long))
    assert np.abs(asked.values - bare.values(question()).values).max() < 1e-5
