"""Scores of values against held-back rates of one key. Squared errors on the {-1, +1} scale, four times the unit one.

What cannot be told from the rows is NaN: a ranking of prompts that all do alike, a denoised rate from single outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln
from scipy.stats import rankdata

from rollout_budget.outcomes import FloatArray
from services.prior_api.evaluate.data import Row
from services.prior_api.evaluate.intervals import covered
from services.prior_api.heads.base import Predictions

SCALE = 4.0
"""(1 - -1)^2: from squared errors on the unit scale to those on {-1, +1}."""
LEVELS = (0.5, 0.68, 0.9, 0.95)
"""Nominal coverage of the intervals that are checked."""
SMALLEST_VARIANCE = 1e-6
"""Below this variance of true rates there is nothing to explain."""
SMALLEST_NOISE = 1e-9
"""Variance of a rate around a value that claims to be exact, where no outcome varies either."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one key, or their means over keys or splits.

    Attributes:
        auc: chance that a prompt solved in half of its trials or more is ranked above one that is not; ties count half.
        squared_error: against the denoised rate.
        raw_error: against the rate of the trials.
        explained_variance: of the denoised rate, within the key.
        normal_50, ...: share of rates within the central interval of that nominal coverage of a normal law with the
            value's standard error and the noise of the outcomes.
        beta_50, ...: the same under a Beta law with the value and its standard error and binomial outcomes; exact for
            counts (`intervals.py`).
        z_deviation: root mean square of (rate - value) / error, outcome noise included; 1 if calibrated.
    """

    auc: float
    squared_error: float
    raw_error: float
    explained_variance: float
    normal_50: float
    normal_68: float
    normal_90: float
    normal_95: float
    beta_50: float
    beta_68: float
    beta_90: float
    beta_95: float
    z_deviation: float

    @property
    def normal(self) -> tuple[float, ...]:
        """Coverage under the normal law at `LEVELS`."""
        return self.normal_50, self.normal_68, self.normal_90, self.normal_95

    @property
    def beta(self) -> tuple[float, ...]:
        """Coverage under the Beta-binomial law at `LEVELS`."""
        return self.beta_50, self.beta_68, self.beta_90, self.beta_95


def score(predictions: Predictions, targets: Sequence[Row], truth: FloatArray) -> Scores:
    """Score n predictions against n held-back rows of one key and their denoised rates, shape (n,)."""
    values, errors = predictions.values, predictions.standard_errors
    rates = np.array([row.rate for row in targets])
    trials = np.array([row.trials for row in targets])
    squared = float(np.square(values - truth).mean())
    spread = float(truth.var())
    noise = np.maximum(np.square(errors) + outcome_variance(rates, trials) / trials, SMALLEST_NOISE)
    z = (rates - values) / np.sqrt(noise)
    known = not np.isnan(z).any()
    normal = [
        float((np.abs(z) <= NormalDist().inv_cdf((1 + level) / 2)).mean()) if known else np.nan for level in LEVELS
    ]
    figures: list[float] = [
        auc(values, rates >= 0.5),
        SCALE * squared,
        SCALE * float(np.square(values - rates).mean()),
        1 - squared / spread if spread > SMALLEST_VARIANCE else np.nan,
        *normal,
        *covered(values, errors, np.array([row.successes for row in targets]), trials, LEVELS),
        float(np.sqrt(np.square(z).mean())),
    ]
    return Scores(*figures)


def mean(scores: Sequence[Scores]) -> Scores:
    """Average over keys or splits, each counting the same; a score that some lack is the mean of those that have it."""
    return Scores(*(_over(column, np.mean) for column in _columns(scores)))


def spread(scores: Sequence[Scores]) -> Scores:
    """Return half the range over splits."""
    return Scores(*(_over(column, lambda known: np.ptp(known) / 2) for column in _columns(scores)))


NAMES = tuple(field.name for field in fields(Scores))


def auc(values: FloatArray, positive: NDArray[np.bool_]) -> float:
    """Return the chance that a positive is ranked above a negative, ties counting half (Mann and Whitney, 1947)."""
    count = int(positive.sum())
    if count in (0, positive.size):
        return np.nan
    ranks = rankdata(values)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (positive.size - count)))


def outcome_variance(rates: FloatArray, trials: NDArray[np.int_]) -> float:
    """Return the pooled, unbiased variance of one outcome from rows with two or more trials; NaN without any."""
    several = trials >= 2
    if not several.any():
        return np.nan
    rates, trials = rates[several], trials[several]
    return float((rates * (1 - rates) * trials / (trials - 1)).mean())


def denoised(rows: Sequence[Row]) -> dict[str, float]:
    """Return each prompt's posterior mean rate under a Beta law fitted to all rows of a key; NaN from single outcomes."""
    successes = np.array([row.successes for row in rows])
    trials = np.array([row.trials for row in rows])
    if trials.max() < 2:
        return dict.fromkeys((row.prompt for row in rows), np.nan)

    def loss(logs: FloatArray) -> float:
        a, b = np.exp(np.clip(logs, -LARGEST_LOG, LARGEST_LOG))
        return -float((betaln(successes + a, trials - successes + b) - betaln(a, b)).sum())

    a, b = np.exp(np.clip(minimize(loss, np.zeros(2), method="Nelder-Mead").x, -LARGEST_LOG, LARGEST_LOG))
    posterior = (successes + a) / (trials + a + b)
    return {row.prompt: float(rate) for row, rate in zip(rows, posterior, strict=True)}


LARGEST_LOG = 15.0
"""Bound on the logarithm of the Beta law's parameters: where all prompts do alike their likelihood has no maximum."""


def _columns(scores: Sequence[Scores]) -> list[FloatArray]:
    return list(np.array([astuple(item) for item in scores]).T)


def _over(column: FloatArray, reduce: Callable[[FloatArray], np.floating]) -> float:
    known = column[~np.isnan(column)]
    return float(reduce(known)) if known.size else np.nan
