"""One Gaussian process over the evidence of all policies and versions that a team may learn from.

The kernel says how alike two success rates are (`kernel.py`); the noise of a row is the pooled variance of an outcome
over its number of trials. Pooling the variance, rather than plugging in each row's own p(1-p), keeps rows that happen
to be all right or all wrong from counting too much; on real outcomes it has the better likelihood.

A fit is a pure function of the evidence: cells are put into one order first, and the kernel's hyperparameters are
chosen again each time, by marginal likelihood on the rows of a fixed sample of prompts. The number of rows in a fit is
bounded; what a prompt's own history holds beyond that is added when its value is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular

from rollout_budget.outcomes import FloatArray
from rollout_budget.wire import PriorModel
from services.prior_api.heads.base import Context, Float32Array, Predictions, Question
from services.prior_api.heads.kernel import Pairs, Shape
from services.prior_api.heads.table import Table

SAMPLE_ROWS = 384
"""Rows on which hyperparameters are chosen: some 20 likelihoods in 0.1 s; more rows moved no choice on real data."""
MIN_SAMPLE_ROWS = 48
"""Below this many rows the defaults stand: their likelihood could not tell shapes apart."""
NATS_TO_MOVE = 1.0
"""Gain in log likelihood that a hyperparameter must bring to leave its default."""
SEARCH: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("amplitude", (0.03, 0.06, 0.12, 0.2)),
    ("text_share", (0.05, 0.3, 0.6, 0.85)),
    ("length_scale", (0.2, 0.35, 0.6, 0.85)),
    ("policy_similarity", (0.4, 0.7, 0.9)),
    ("decay_versions", (5.0, 20.0, 80.0, 320.0)),
)
"""One pass, one hyperparameter after the other. 0.12, 0.6, 0.6, 0.7, 80 are the defaults: best on real outcomes of two
language models on mathematics; the others cover easier, harder, more repetitive and faster-moving tasks."""


class GaussianProcess:
    """Fits the process to texts with features of `width` numbers; see the module."""

    name: PriorModel = "gp"

    def __init__(self, width: int) -> None:
        self._width = width

    def fit(self, context: Context) -> GaussianProcessFit:
        """Fit to any number of cells, none included (then the answers are the kernel's own prior).

        Raises:
            ArithmeticError: kernel plus noise cannot be factored.
        """
        table = Table.of(context, self._width)
        shape = choose(table)
        if not table.rates.size:
            return GaussianProcessFit(table, shape, np.empty((0, 0), np.float32), np.empty(0))
        factor, weights, _ = _solve(table, Pairs.of(table.points, table.points), shape)
        return GaussianProcessFit(table, shape, factor.astype(np.float32), weights)


@dataclass(frozen=True, slots=True)
class GaussianProcessFit:
    """A fitted process.

    Attributes:
        factor: lower Cholesky factor of kernel plus noise, shape (n, n).
        weights: (kernel + noise)^-1 (rates - mean), shape (n,).
    """

    table: Table
    shape: Shape
    factor: Float32Array
    weights: FloatArray
    name: PriorModel = "gp"
    version: str = "gp/1"

    def values(self, question: Question) -> Predictions:
        """Return posterior means and standard errors of success rates (outcome noise not included)."""
        points = self.table.codes.place(question)
        across = Pairs.of(self.table.points, points).covariance(self.shape)
        means = self.table.mean + self.weights @ across
        explained = np.zeros(across.shape[1])
        if self.weights.size:
            explained = np.square(solve_triangular(self.factor, across, lower=True, check_finite=False)).sum(axis=0)
        variances = np.maximum(self.shape.variance - explained.astype(np.float64), 0.0)
        rates, noise = self._beyond(question)
        gain = variances / (variances + noise)
        return Predictions.of(means + gain * (rates - means), variances * (1 - gain))

    def _beyond(self, question: Question) -> tuple[FloatArray, FloatArray]:
        """Return each prompt's own rate in evidence that the bound on rows left out, and its noise (inf: none).

        The noise is that of the outcomes plus how far a rate drifts, by the kernel, from their versions to the one
        asked. All such evidence of a prompt counts as one observation, since its drift is common.
        """
        rates, noise = np.zeros(len(question.identities)), np.full(len(question.identities), np.inf)
        for place, cells in enumerate(question.histories):
            left = [cell for cell in cells if self.table.left_out(cell)]
            if left:
                trials = sum(cell.trials for cell in left)
                distance = sum(cell.trials * abs(cell.version - question.version) for cell in left) / trials
                rates[place] = sum(cell.successes for cell in left) / trials
                noise[place] = self.table.outcome_variance / trials + self.shape.drift(distance)
        return rates, noise


def choose(table: Table) -> Shape:
    """Choose the kernel's shape by marginal likelihood, one hyperparameter after the other."""
    shape = Shape()
    if table.rates.size < MIN_SAMPLE_ROWS:
        return shape
    sample = table.sample(SAMPLE_ROWS)
    pairs = Pairs.of(sample.points, sample.points)
    best = _solve(sample, pairs, shape)[2]
    for name, candidates in SEARCH:
        default = getattr(shape, name)
        scored = [
            (_solve(sample, pairs, replace(shape, **{name: value}))[2], value)
            for value in candidates
            if value != default
        ]
        score, value = max(scored)
        if score > best + NATS_TO_MOVE:
            shape, best = replace(shape, **{name: value}), score
    return shape


def _solve(table: Table, pairs: Pairs, shape: Shape) -> tuple[FloatArray, FloatArray, float]:
    """Return factor, weights and log marginal likelihood (up to a constant).

    Raises:
        ArithmeticError: kernel plus noise cannot be factored.
    """
    matrix = pairs.covariance(shape).astype(np.float64)
    matrix[np.diag_indices_from(matrix)] += table.noise
    try:
        factor = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError as error:
        raise ArithmeticError("kernel plus noise is not positive definite") from error
    residuals = table.rates - table.mean
    weights = cho_solve((factor, True), residuals, check_finite=False)
    likelihood = -0.5 * float(residuals @ weights) - float(np.log(np.diag(factor)).sum())
    return factor, weights, likelihood
