"""What is reported of a method: errors of its baselines, its policy gradient, and what it spent. Vectorised.

The policy gradient is that of a Bernoulli policy of one parameter: a sample with outcome y has the score y - p, the
gradient of E[y] is p (1 - p), and a sample contributes (y - b)(y - p). Figures:

- `error`: squared error of a group's value, `sample_error`: of what is subtracted from a sample; {-1, +1} scale. The
  second is what a baseline adds to the variance of a gradient whose score does not tell the outcome.
- `gradient_variance`: mean over samples of the exact variance of a contribution given its baseline,
  `p (1 - p) (1 - p - b)^2`. Its smallest b is 1 - p, not p, as with one parameter the score tells the outcome: it
  favours baselines that lean to 1/2, so read it beside `sample_error`. Covariance between siblings is left out.
- `gradient_error`: squared distance of a group's summed gradient from `k p (1 - p)`, per rollout: everything included,
  bias and covariance too, by Monte Carlo.
- `silent`: share of groups whose advantages are all 0. Groups given up count here and in `rollouts`, nowhere else.
- `bias_sum`, `bias_mean`: relative bias of a loss that sums over all samples, and of one that averages within groups
  first; Monte Carlo.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from benchmarks.estimators.simulate import Final
from benchmarks.estimators.stream import Stream
from rollout_budget.decisions import PAPER_RANGE
from rollout_budget.groups import IntArray
from rollout_budget.outcomes import FloatArray

SILENT = 1e-9
"""An advantage below this is 0 but for rounding."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Figures of one method in one run; see the module."""

    rollouts: float
    error: float
    sample_error: float
    gradient_variance: float
    gradient_error: float
    silent: float
    bias_sum: float
    bias_mean: float


NAMES = tuple(field.name for field in fields(Scores))


def score(final: Final, stream: Stream) -> Scores:
    """Return the figures of the groups after the warm-up."""
    start = stream.counted.start
    groups = final.groups
    owner, truth, sizes = groups.owner, stream.truth, groups.sizes
    advantage = groups.outcomes - final.per_sample
    loud = np.zeros(len(groups), dtype=np.bool_)
    loud[owner[np.abs(advantage) > SILENT]] = True
    after = np.arange(len(groups)) >= start
    kept = after & ~final.given_up & (sizes > 0)
    samples = kept[owner]
    p, b = truth[owner], final.per_sample
    contribution = advantage * (groups.outcomes - p)
    return Scores(
        rollouts=float(sizes[after].sum() / max(kept.sum(), 1)),
        error=PAPER_RANGE.squared_from_unit(float(np.mean((final.value - truth)[kept] ** 2))),
        sample_error=PAPER_RANGE.squared_from_unit(float(np.mean((b - p)[samples] ** 2))),
        gradient_variance=float(np.mean((p * (1 - p) * (1 - p - b) ** 2)[samples])),
        silent=float(1.0 - loud[after].mean()),
        **_gradient(np.bincount(owner, contribution, len(groups))[kept], truth[kept], sizes[kept]),
    )


def _gradient(total: FloatArray, truth: FloatArray, sizes: IntArray) -> dict[str, float]:
    true = truth * (1 - truth)
    return {
        "gradient_error": float(((total - sizes * true) ** 2).sum() / sizes.sum()),
        "bias_sum": float(total.sum() / (sizes * true).sum() - 1.0),
        "bias_mean": float((total / sizes).sum() / true.sum() - 1.0),
    }
