"""One Gaussian process over the evidence of all policies and versions that a team may learn from.

It speaks of latents, on the probit scale: there what a policy's level and a prompt's difficulty do adds up, and a rate
that comes back from it stays within [0, 1]. The kernel says how alike two latents are (`kernel.py`), and each success
count enters as a normal observation of one (`link.py`), the surer the more trials and the less extreme the rate.

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
from services.prior_api.heads.link import Observations, observe, rates
from services.prior_api.heads.table import Table
from services.prior_api.heads.updates import append, larger

SAMPLE_ROWS = 512
"""Rows on which hyperparameters are chosen: some 25 likelihoods in 0.3 s."""
MIN_SAMPLE_ROWS = 48
"""Below this many rows the defaults stand: their likelihood could not tell shapes apart."""
NATS_TO_MOVE = 1.0
"""Gain in log likelihood that a hyperparameter must bring to leave its default."""
SEARCH: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("amplitude", (0.3, 0.6, 1.0, 1.6)),
    ("own_share", (0.1, 0.25, 0.5, 0.8)),
    ("surface_share", (0.05, 0.25, 0.5, 0.8)),
    ("length_scale", (0.2, 0.4, 0.6, 0.85)),
    ("surface_scale", (0.5, 0.85, 1.5)),
    ("policy_similarity", (0.4, 0.6, 0.8, 0.95)),
    ("level", (0.1, 0.33, 1.0)),
    ("decay_versions", (5.0, 20.0, 80.0, 300.0)),
)
"""One pass, one hyperparameter after the other. The defaults are the likeliest on half of the prompts of real outcomes of
two language models on mathematics, rounded; the others cover easier, harder, more repetitive and faster-moving tasks."""


class GaussianProcess:
    """Fits the process to texts with features of `width` numbers, a unit vector; see the module.

    Args:
        surface: numbers after those that describe the text's surface, on any scale; 0 if the encoder gives none.
    """

    name: PriorModel = "gp"

    def __init__(self, width: int, surface: int = 0) -> None:
        self._width, self._surface = width, surface

    def fit(self, context: Context) -> GaussianProcessFit:
        """Fit to any number of cells, none included (then the answers are the kernel's own prior).

        Raises:
            ArithmeticError: kernel plus noise cannot be factored.
        """
        table = Table.of(context, self._width, self._surface)
        shape = choose(table)
        if not table.values.size:
            return GaussianProcessFit(table, shape, np.empty((0, 0), np.float32), np.empty(0))
        factor, weights, _ = _solve(table, Pairs.of(table.points, table.points), shape)
        return GaussianProcessFit(table, shape, np.asfortranarray(factor, dtype=np.float32), weights)


@dataclass(frozen=True, slots=True)
class GaussianProcessFit:
    """A fitted process.

    Attributes:
        factor: lower Cholesky factor of kernel plus noise, shape (n, n), by columns as the solver wants it.
        weights: (kernel + noise)^-1 (observed latents - mean), shape (n,).
    """

    table: Table
    shape: Shape
    factor: Float32Array
    weights: FloatArray
    name: PriorModel = "gp"
    version: str = "gp/2"

    def values(self, question: Question) -> Predictions:
        """Return posterior means and standard errors of success rates (outcome noise not included)."""
        points = self.table.codes.place(question)
        law = self.table.law
        across = Pairs.of(self.table.points, points).covariance(self.shape)
        across *= np.float32(law.variance)
        means = law.mean + self.weights @ across
        explained = np.zeros(across.shape[1])
        if self.weights.size:
            solved = solve_triangular(self.factor, across, lower=True, check_finite=False)
            explained = np.einsum("ij,ij->j", solved, solved)
        variances = np.maximum(law.variance * self.shape.variance - explained.astype(np.float64), 0.0)
        observed = self._beyond(question)
        gain = variances / (variances + observed.noise)
        return Predictions.of(*rates(means + gain * (observed.values - means), variances * (1 - gain)))

    def grown(self, context: Context) -> GaussianProcessFit:
        """Return the process with these rows appended, its shape and law as they were; the fit has rows.

        Raises:
            ArithmeticError: kernel plus noise cannot be factored.
        """
        count, variance = self.weights.size, np.float32(self.table.law.variance)
        table = larger(self.table, context)
        places = np.arange(table.values.size)
        if places.size == count:
            return self
        old, new = table.points.take(places[:count]), table.points.take(places[count:])
        across = Pairs.of(old, new).covariance(self.shape) * variance
        corner = (Pairs.of(new, new).covariance(self.shape) * variance).astype(np.float64)
        corner[np.diag_indices_from(corner)] += table.noise[count:]
        residuals = table.values[count:] - table.law.mean
        factor, weights = append(self.factor, self.weights, across, corner, residuals)
        return replace(self, table=table, factor=factor, weights=weights)

    def _beyond(self, question: Question) -> Observations:
        """Return what each prompt's own evidence says that the bound on rows left out (noise inf: there is none).

        The noise is that of the count plus how far a latent drifts, by the kernel, from their versions to the one
        asked. All such evidence of a prompt counts as one observation, since its drift is common.
        """
        count = len(question.identities)
        successes, trials, distance = np.zeros(count), np.zeros(count), np.zeros(count)
        for place, cells in enumerate(question.histories):
            for cell in cells:
                if self.table.left_out(cell):
                    successes[place] += cell.successes
                    trials[place] += cell.trials
                    distance[place] += cell.trials * abs(cell.version - question.version)
        values, noise = np.zeros(count), np.full(count, np.inf)
        there = np.flatnonzero(trials)
        if there.size:
            observed = observe(successes[there], trials[there], self.table.law)
            drift = [self.shape.drift(float(away)) for away in distance[there] / trials[there]]
            values[there] = observed.values
            noise[there] = observed.noise + self.table.law.variance * np.array(drift)
        return Observations(values, noise)


def choose(table: Table) -> Shape:
    """Choose the kernel's shape by marginal likelihood, one hyperparameter after the other."""
    shape = Shape() if table.codes.surface else Shape(surface_share=0.0)
    if table.values.size < MIN_SAMPLE_ROWS:
        return shape
    sample = table.sample(SAMPLE_ROWS)
    pairs = Pairs.of(sample.points, sample.points)
    best = _solve(sample, pairs, shape)[2]
    for name, candidates in SEARCH:
        if name.startswith("surface") and not table.codes.surface:
            continue
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
    matrix *= table.law.variance
    matrix[np.diag_indices_from(matrix)] += table.noise
    try:
        factor = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError as error:
        raise ArithmeticError("kernel plus noise is not positive definite") from error
    residuals = table.values - table.law.mean
    weights = cho_solve((factor, True), residuals, check_finite=False)
    likelihood = -0.5 * float(residuals @ weights) - float(np.log(np.diag(factor)).sum())
    return factor, weights, likelihood
