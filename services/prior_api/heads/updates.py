"""Appends rows to a fitted Gaussian process, instead of fitting it again.

The factor of the larger matrix is the old one with rows below it, so appending m rows to n costs n^2 m instead of n^3
(Osborne, 2010, Bayesian Gaussian Processes for Sequential Prediction, appendix B). The kernel's shape, the metric and
the law of latents stay those of the fit; so the result is that of a fit on all rows with these held fixed, but for
rounding, and for new rows of a prompt and version that it has already, which stand beside the old ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular

from rollout_budget.outcomes import FloatArray
from services.prior_api.heads import link
from services.prior_api.heads.base import Context, Float32Array, Predictor
from services.prior_api.heads.kernel import Points
from services.prior_api.heads.table import Table

NOTHING_OLDER = -1
"""Oldest version of a policy that came after the fit: every row of it is appended, whatever its version."""


@runtime_checkable
class Growing(Predictor, Protocol):
    """A predictor to which rows can be appended."""

    def grown(self, context: Context) -> Growing:
        """Return a predictor that has seen these rows too.

        Raises:
            ArithmeticError: there is none.
        """
        ...


def larger(table: Table, context: Context) -> Table:
    """Return the table with rows below it, those left out that a bounded fit would leave out for their age."""
    cells = [cell for cell in context.cells if (cell.team, cell.policy) not in table.oldest or not table.left_out(cell)]
    cells.sort(key=lambda cell: (cell.identity, cell.team, cell.policy, cell.version, cell.key, cell.successes))
    identities, owners = [cell.identity for cell in cells], [(cell.team, cell.policy) for cell in cells]
    prompts, policies, oldest = dict(table.codes.prompts), dict(table.codes.policies), dict(table.oldest)
    for identity in identities:
        prompts.setdefault(identity, len(prompts))
    for owner in owners:
        policies.setdefault(owner, len(policies))
        oldest.setdefault(owner, NOTHING_OLDER)
    codes = replace(table.codes, prompts=prompts, policies=policies)
    points = codes.locate(identities, owners, [cell.version for cell in cells], context.features)
    observed = link.observe(
        np.array([cell.successes for cell in cells], dtype=np.float64),
        np.array([cell.trials for cell in cells], dtype=np.float64),
        table.law,
    )
    return replace(
        table,
        codes=codes,
        points=_joined(table.points, points),
        values=np.concatenate([table.values, observed.values]),
        noise=np.concatenate([table.noise, observed.noise]),
        places=table.places | {(cell.team, cell.policy, cell.key, cell.version) for cell in cells},
        oldest=oldest,
    )


def append(
    factor: Float32Array, weights: FloatArray, across: Float32Array, corner: FloatArray, residuals: FloatArray
) -> tuple[Float32Array, FloatArray]:
    """Return factor and weights of the matrix [[K, across], [across', corner]].

    Args:
        factor: lower Cholesky factor of K, shape (n, n), n > 0.
        weights: K^-1 times the residuals of the n rows.
        across: covariance of the n rows with the m new ones, shape (n, m).
        corner: kernel plus noise of the new rows, shape (m, m).
        residuals: of the new rows, shape (m,).

    Raises:
        ArithmeticError: the larger matrix cannot be factored.
    """
    count, more = across.shape
    below = solve_triangular(factor, across, lower=True, check_finite=False)
    try:
        edge = cholesky(corner - (below.T @ below).astype(np.float64), lower=True, check_finite=False)
    except LinAlgError as error:
        raise ArithmeticError("kernel plus noise is not positive definite") from error
    added = cho_solve((edge, True), residuals - weights @ across, check_finite=False)
    moved = solve_triangular(factor, below @ added.astype(np.float32), lower=True, trans="T", check_finite=False)
    whole = np.zeros((count + more, count + more), dtype=np.float32, order="F")
    whole[:count, :count], whole[count:, :count], whole[count:, count:] = factor, below.T, edge
    return whole, np.concatenate([weights - moved, added])


def _joined(first: Points, second: Points) -> Points:
    return Points(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in Points.__slots__))
