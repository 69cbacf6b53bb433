"""How far a run's prior can be trusted, learned from the groups that it was scored on. Unit scale.

Owns one mergeable summary of a run: decayed sums from which the pooled squared error of the prior (D), the
within-group variance (S), the prior's strength in pseudo-rollouts (m = S/D), explained variance, Brier score,
calibration error and the share of rejected priors are read. Owns no clock and no storage: it is a value.

What may enter. The sums (`calibrate`) are unbiased only for outcomes whose number was fixed before they were drawn: feed
each group once, with its first wave and with the prior that it was opened with (even after that prior was dropped, or
it could never come back). Rollouts bought because of earlier outcomes would bias both D and S. They do enter the law of
rates (`learn`), whose likelihood does not mind: feed each group once when it is complete.

- k = 0 says nothing and is left out.
- k >= 1 tells how well V predicts: Brier, calibration, rejections, and the sign of the explained variance, because
  (ybar - V)^2 and (ybar - mean)^2 carry the same noise, which cancels in their difference.
- k >= 2 also separates noise from error: `s^2` is unbiased for S, `(ybar - V)^2 - s^2/k` for D. A single outcome has
  the expectation D + S and cannot split it: taking S from other groups would blame or excuse the wrong ones wherever
  the first wave depends on V. The ratio m is consistent under such a choice, as under Beta(m V, m (1 - V)) both S and
  D are proportional to V (1 - V).

All sums decay together, so when only singletons arrive, D and S fall back to their cold start, the first waves of the
`auto` plan grow, and D is learned anew: the prior is never trusted for ever on old evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from rollout_budget.errors import InvalidInput
from rollout_budget.groups import Groups
from rollout_budget.law import MIN_DISPERSION, BetaLaw, Law, LearnedLaw
from rollout_budget.outcomes import FloatArray

HALF_LIFE_GROUPS = 1024.0
"""Groups after which evidence counts half: some 1,500 in effect, enough to tell D from 0.003, few enough to follow a
policy that learns (8 to 32 training steps)."""
LAW_HALF_LIFE_GROUPS = 2048.0
"""The same for the law of rates, which has more to learn; half or twice that moves no error by 1.5%."""
COLD_START_GROUPS = 16.0
"""Groups that the cold start counts for: one group's estimate of D scatters by 0.1, so 16 by 0.025."""
COLD_SQUARED_ERROR = 1 / 12
"""D before anything is known: success rates uniform on [0, 1] about a prior of 1/2."""
COLD_WITHIN_VARIANCE = 1 / 6
"""S before anything is known: E[p (1 - p)] for the same uniform law; so m = 2, Laplace's rule."""
MIN_STRENGTH = 2.0**-10
"""Smallest m: in effect none, yet a single sample still has a baseline (V) instead of 0/0."""
MAX_STRENGTH = 64.0
"""Largest m: beyond it D is below what the effective 1,500 groups can tell from 0."""
MIN_GROUPS_TO_JUDGE = 64.0
"""Decayed groups before a prior can be dropped: a strong prior then shows its gain at 2.5 standard errors."""
MAX_HANDED_ON_GROUPS = 128.0
"""Groups that the history of another run counts for at most."""
MIN_SPREAD = 1e-4
"""Between-group variance under which no share of it can be stated: success rates within 0.01 of each other."""
CALIBRATION_BINS = 10
"""Bins of equal width in V for the calibration error."""

_NO_BINS = (0.0,) * CALIBRATION_BINS


@dataclass(frozen=True, slots=True)
class Reliability:
    """What a run has learned about its prior; `Reliability()` is a fresh run.

    Attributes:
        groups: groups with outcomes that were learned from, ever; all other fields are sums that decay.
        weight: groups with k >= 1.
        mean: their ybar.
        square: their ybar^2.
        error: their (ybar - V)^2.
        score: their mean of (y - V)^2.
        rejected: those with |ybar - V| > 1 / (2 sqrt k), the test of V0.5.
        pair_weight: groups with k >= 2.
        pair_mean: their ybar.
        pair_square: their ybar^2 - s^2/k, unbiased for p^2.
        pair_error: their (ybar - V)^2 - s^2/k, unbiased for (p - V)^2.
        pair_variance: their s^2.
        bin_prior: V of groups with k >= 1, by bin of V.
        bin_mean: their ybar, by bin of V.
        learned: the law of rates given V, fitted to whole groups; None where D and S were given instead.
    """

    groups: int = 0
    weight: float = 0.0
    mean: float = 0.0
    square: float = 0.0
    error: float = 0.0
    score: float = 0.0
    rejected: float = 0.0
    pair_weight: float = 0.0
    pair_mean: float = 0.0
    pair_square: float = 0.0
    pair_error: float = 0.0
    pair_variance: float = 0.0
    bin_prior: tuple[float, ...] = _NO_BINS
    bin_mean: tuple[float, ...] = _NO_BINS
    learned: LearnedLaw | None = field(default_factory=LearnedLaw)

    @classmethod
    def known(cls, squared_prior_error: float, within_variance: float) -> Reliability:
        """Return the state of a run whose D and S are given, for decisions without a history.

        Raises:
            InvalidInput: a value is negative or not finite.
        """
        for value in (squared_prior_error, within_variance):
            if not (math.isfinite(value) and value >= 0.0):
                raise InvalidInput(f"a squared error and a variance need finite values >= 0, got {value}")
        weight, total = HALF_LIFE_GROUPS, HALF_LIFE_GROUPS + COLD_START_GROUPS
        return cls(
            pair_weight=weight,
            pair_error=total * squared_prior_error - COLD_START_GROUPS * COLD_SQUARED_ERROR,
            pair_variance=total * within_variance - COLD_START_GROUPS * COLD_WITHIN_VARIANCE,
            learned=None,
        )

    def update(self, groups: Groups) -> Reliability:
        """Return the state after groups whose first wave is all there is: `calibrate`, then `learn`."""
        return self.calibrate(groups).learn(groups)

    def calibrate(self, first: Groups) -> Reliability:
        """Return the state after these first waves; the order in which they stand does not matter."""
        batch = _sums(first)
        factor = 0.5 ** (batch.groups / HALF_LIFE_GROUPS)
        law, summed = self.learned, self._decayed_sums(factor).merge(batch)
        return replace(summed, learned=law and law.calibrated(*_drawn(first), factor))

    def learn(self, whole: Groups) -> Reliability:
        """Return the state after these groups, all their outcomes included: they shape the law of rates alone.

        Other than the sums, the law does not mind outcomes that were bought because of earlier ones.
        """
        known, law = _drawn(whole), self.learned
        factor = 0.5 ** (known[0].size / LAW_HALF_LIFE_GROUPS)
        return replace(self, learned=law and law.learned(*known, factor, self.dispersion))

    def merge(self, other: Reliability) -> Reliability:
        """Return the state of two runs taken as one, neither older than the other (commutative)."""
        values: dict[str, Any] = {}
        for name in _SUMS:
            mine, theirs = getattr(self, name), getattr(other, name)
            values[name] = (
                tuple(a + b for a, b in zip(mine, theirs, strict=True)) if isinstance(mine, tuple) else mine + theirs
            )
        merged = Reliability(groups=self.groups + other.groups, **values, learned=None)
        if self.learned is None or other.learned is None:
            return merged
        return replace(merged, learned=self.learned.merged(other.learned, merged.dispersion))

    def handed_on(self) -> Reliability:
        """Return what a new run of the same policy may start from: the same figures, counting for fewer groups.

        A different run, so at most `MAX_HANDED_ON_GROUPS` groups: enough to skip the cold start, few enough to be
        outvoted within some steps where the new run differs. The law of rates remembers more groups than the sums do,
        so it fades by more.
        """
        law, sums = self.learned, self._decayed_sums(_cut(self.weight))
        return replace(sums, groups=0, learned=law and law.scaled(_cut(max(law.groups, math.fsum(law.seen)))))

    def _decayed_sums(self, factor: float) -> Reliability:
        """Return all but the law, times `factor`."""
        values: dict[str, Any] = {}
        for name in _SUMS:
            value = getattr(self, name)
            values[name] = tuple(factor * x for x in value) if isinstance(value, tuple) else factor * value
        return Reliability(groups=self.groups, **values, learned=None)

    @property
    def law(self) -> Law:
        """The law of success rates given V: learned, or Beta(m V, m (1 - V)) where D and S were given."""
        return BetaLaw(self.strength) if self.learned is None else self.learned

    @property
    def dispersion(self) -> float:
        """Variance of outcomes over that of coin flips with the same mean, in (0, 1]; 1 for outcomes 0 and 1."""
        cold = COLD_START_GROUPS * COLD_WITHIN_VARIANCE
        ratio = (cold + self.pair_variance) / (cold + self.pair_mean - self.pair_square)
        return min(max(ratio, MIN_DISPERSION), 1.0)

    @property
    def squared_prior_error(self) -> float:
        """D, the pooled squared error of V, in [0, 1]; the cold start counts as `COLD_START_GROUPS` groups."""
        return self._shrunk(self.pair_error, COLD_SQUARED_ERROR)

    @property
    def within_variance(self) -> float:
        """S, the pooled unbiased variance of outcomes within a group, in [0, 1/2]; shrunk like D."""
        return self._shrunk(self.pair_variance, COLD_WITHIN_VARIANCE)

    @property
    def running_mean(self) -> float | None:
        """Mean outcome of recent groups, each group counted once; None before the first."""
        return self.mean / self.weight if self.weight > 0 else None

    @property
    def prior_usable(self) -> bool:
        """Whether V predicts better than the running mean; true until enough groups were seen to judge."""
        return self.weight < MIN_GROUPS_TO_JUDGE or self._gain > 0.0

    def prior_in_use(self, prior: FloatArray) -> FloatArray:
        """Return the priors to decide with, shape (G,): V itself, or the running mean once V is dropped."""
        return prior if self.prior_usable else np.full(prior.shape, min(max(self.mean / self.weight, 0.0), 1.0))

    @property
    def strength(self) -> float:
        """Pseudo-rollouts m = S/D that the prior in use counts for, within [`MIN_STRENGTH`, `MAX_STRENGTH`]."""
        error = self.squared_prior_error if self.prior_usable else self._shrunk(self._spread, COLD_SQUARED_ERROR)
        ratio = self.within_variance / error if error * MAX_STRENGTH > self.within_variance else MAX_STRENGTH
        return max(ratio, MIN_STRENGTH)

    @property
    def explained_variance(self) -> float | None:
        """Share of the variance of success rates that V explains, at most 1; <= 0 where the mean predicts as well.

        Free of sampling noise. None until a group with k >= 2 was seen, or where success rates hardly differ.
        """
        if self.weight <= 0 or self.pair_weight <= 0 or self._spread < MIN_SPREAD * self.pair_weight:
            return None
        return min(self._gain * self.pair_weight / self._spread, 1.0)

    @property
    def brier(self) -> float | None:
        """Brier score of V as a forecast of one outcome, in [0, 1]; its expectation is D + S."""
        return self.score / self.weight if self.weight > 0 else None

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error over `CALIBRATION_BINS` bins of V, in [0, 1]; a few groups overstate it."""
        if self.weight <= 0:
            return None
        return sum(abs(v - y) for v, y in zip(self.bin_prior, self.bin_mean, strict=True)) / self.weight

    @property
    def rejected_share(self) -> float | None:
        """Share of groups whose own outcomes reject V by the test of V0.5."""
        return self.rejected / self.weight if self.weight > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return the state for JSON: every number finite."""
        values = {"groups": self.groups} | {name: getattr(self, name) for name in _SUMS}
        state = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return state | {"learned": None if self.learned is None else self.learned.to_dict()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Reliability:
        """Return the state that `to_dict` gave.

        States from before laws were learned have none: they start with a fresh one.

        Raises:
            InvalidInput: a field is missing, unknown, not a number or not finite.
        """
        names = {"groups", *_SUMS}
        if set(state) - {"learned"} != names:
            raise InvalidInput(f"reliability state needs exactly the fields {sorted(names)} and learned")
        sums = {name: state[name] for name in names}
        try:
            values: dict[str, Any] = {name: float(value) for name, value in sums.items() if not isinstance(value, list)}
            values |= {name: tuple(map(float, value)) for name, value in sums.items() if isinstance(value, list)}
            values["groups"] = int(state["groups"])
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(f"reliability state holds something that is not a number: {error}") from error
        bins = (values["bin_prior"], values["bin_mean"])
        if any(not isinstance(row, tuple) or len(row) != CALIBRATION_BINS for row in bins):
            raise InvalidInput(f"reliability state needs {CALIBRATION_BINS} calibration bins")
        flat = [*(value for value in values.values() if not isinstance(value, tuple)), *bins[0], *bins[1]]
        if not all(map(math.isfinite, flat)) or min(values["groups"], values["weight"], values["pair_weight"]) < 0:
            raise InvalidInput("reliability state holds a negative count or a number that is not finite")
        learned = state.get("learned", LearnedLaw().to_dict())
        return cls(**values, learned=None if learned is None else LearnedLaw.from_dict(learned))

    def _shrunk(self, total: float, cold: float) -> float:
        return max(0.0, (COLD_START_GROUPS * cold + total) / (COLD_START_GROUPS + self.pair_weight))

    @property
    def _gain(self) -> float:
        """E[(p - mean)^2] - E[(p - V)^2], free of noise for any k."""
        mean = self.mean / self.weight
        return (self.square - self.error) / self.weight - mean**2

    @property
    def _spread(self) -> float:
        """Sum of (p - mean)^2 over groups with k >= 2: what the running mean costs as a prior."""
        mean = self.mean / self.weight
        return self.pair_square - 2 * mean * self.pair_mean + mean**2 * self.pair_weight


def _cut(groups: float) -> float:
    """Return the factor that leaves no more than `MAX_HANDED_ON_GROUPS` of so many groups."""
    return min(1.0, MAX_HANDED_ON_GROUPS / max(groups, 1.0))


def _sums(groups: Groups) -> Reliability:
    """Return the undecayed sums of one batch."""
    seen = groups.sizes > 0
    paired = groups.sizes[seen] > 1
    prior, mean, size = groups.prior[seen], groups.means[seen], groups.sizes[seen]
    gap = (mean - prior) ** 2
    scores = np.bincount(groups.owner, (groups.outcomes - groups.prior[groups.owner]) ** 2, len(groups))[seen] / size
    variance = groups.sample_variances[seen][paired]
    noise = variance / size[paired]
    bins = np.minimum((prior * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    return Reliability(
        groups=int(seen.sum()),
        weight=float(seen.sum()),
        mean=float(mean.sum()),
        square=float((mean**2).sum()),
        error=float(gap.sum()),
        score=float(scores.sum()),
        rejected=float((gap > 0.25 / size).sum()),
        pair_weight=float(paired.sum()),
        pair_mean=float(mean[paired].sum()),
        pair_square=float((mean[paired] ** 2 - noise).sum()),
        pair_error=float((gap[paired] - noise).sum()),
        pair_variance=float(variance.sum()),
        bin_prior=tuple(np.bincount(bins, prior, CALIBRATION_BINS).tolist()),
        bin_mean=tuple(np.bincount(bins, mean, CALIBRATION_BINS).tolist()),
        learned=None,
    )


def _drawn(groups: Groups) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return prior, sum and size of the groups with outcomes."""
    seen = groups.sizes > 0
    return groups.prior[seen], groups.sums[seen], groups.sizes[seen].astype(np.float64)


_SUMS = tuple(item.name for item in fields(Reliability) if item.name not in {"groups", "learned"})
