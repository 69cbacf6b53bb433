"""The law of a success rate p given its prior V: what a run has learned about where rates lie when V was said.

Owns two laws behind one question, `posterior`. `BetaLaw` is one Beta of a known strength. `LearnedLaw` is a mixture on
a grid, fitted to a run's past groups: Beta laws of several strengths around a recalibrated V and around V itself, and,
where many groups have been seen near one V, whatever shape their outcomes have there. So a prior that is exact for
some prompts and wrong for others, or biased, or even reversed, counts for what it has proved to be worth at that V.
Owns no clock and no storage: both are values. Unit scale.

The fit (method of this project; the mixture by expectation maximisation, Dempster et al. 1977, over counts of groups
by V, size and sum):

- recalibration mu(V): a Gaussian process on the mean of outcomes less V, over `NODES` values of V, identity at first;
- shares of the mixture's parts: maximum a posteriori, one set for all V;
- shape at each V: posterior mean of a Dirichlet process of concentration `CONCENTRATION` around the mixture.

The likelihood of a group is binomial, so it is right for any size. Outcomes between 0 and 1 vary less than coin flips
of the same mean; `dispersion`, the ratio of the two variances, then raises the likelihood to the power 1/dispersion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from rollout_budget.errors import InvalidInput
from rollout_budget.groups import IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.posterior import Posterior

NODES = 17
"""Values of V at which the law is kept; between two of them it is interpolated."""
RATES = 25
"""Values of p on the grid, denser towards 0 and 1, where real success rates pile up; 33 change no figure by 0.5%."""
STRENGTHS = (0.5, 2.0, 8.0, 32.0)
"""Pseudo-rollouts of the Beta laws around the recalibrated V: from a prior that says nothing to one that says it all."""
PLAIN_STRENGTH = 32.0
"""Of the Beta law around V itself: a prior that is exact for some prompts only looks biased on the whole."""
START = (0.3, 0.5, 0.14, 0.04, 0.02)
"""Shares before anything is known: about as strong as two rollouts, rarely more."""
START_GROUPS = 4.0
"""Groups that the start counts for."""
CONCENTRATION = 16.0
"""Groups near one V that its own shape needs to count as much as the mixture."""
CALIBRATION_SCALE = 0.2
"""Standard deviation of the bias that a prior may have, before anything is known; `CALIBRATION_LENGTH` is over which
distance of V it changes."""
CALIBRATION_LENGTH = 0.3
CALIBRATION_NOISE = 0.3
"""Variance of one group's mean around V: that of its outcomes plus the prior's squared error."""
SHARE_STEPS = 50
SHAPE_STEPS = 10
"""Steps of expectation maximisation; shares go on from where the last update left them."""
MAX_SIZE = 32
"""Groups of more outcomes count as this many with the same mean: it bounds the state."""
STEPS_PER_OUTCOME = 4
"""Sums that are not whole numbers are kept in steps of 1/4 (coarser above 8 outcomes), by the two neighbours."""
EDGE = 0.01
"""Recalibrated values stay this far from 0 and 1: nothing is impossible."""
NEGLIGIBLE = 1e-4
"""Groups: counts that have decayed below are dropped."""
AT_ONCE = 2**14
"""Posteriors computed together: some 20 MB at most."""
MIN_DISPERSION = 1 / 64
MAX_FLIPS = 128.0
"""Outcomes, in coin flips, beyond which the grid is too coarse for a posterior and the Beta law of the same moments
before any outcome takes its place; what the prior says hardly matters then."""
CERTAIN = 1e-6
"""Smallest parameter of a Beta law to draw from: in effect 0, which no generator takes."""

_ANGLES = np.pi * (np.arange(RATES) + 0.5) / RATES
_GRID = (1.0 - np.cos(_ANGLES)) / 2.0
_LOG_P, _LOG_Q = np.log(_GRID), np.log1p(-_GRID)
_NOTHING = (0.0,) * NODES
_MOMENTS = np.stack([np.ones(RATES), _GRID, _GRID**2])
_VALUES = np.linspace(0.0, 1.0, NODES)
_KRIGING = CALIBRATION_SCALE**2 * np.exp(-0.5 * (np.subtract.outer(_VALUES, _VALUES) / CALIBRATION_LENGTH) ** 2)


class Law(Protocol):
    """The law of p given V."""

    @property
    def dispersion(self) -> float:
        """Variance of outcomes over that of coin flips with the same mean, in (0, 1]."""
        ...

    def posterior(self, prior: FloatArray, sums: FloatArray, sizes: FloatArray) -> Posterior:
        """Return what is known of p after `sizes` outcomes that add up to `sums`.

        Args:
            prior: V, shape (n,), in [0, 1].
            sums: shape (n,), in [0, sizes].
            sizes: shape (n,), >= 0; where 0 the answer is the law itself.
        """
        ...

    def draw(
        self, prior: FloatArray, sums: FloatArray, sizes: FloatArray, *, rng: np.random.Generator, draws: int
    ) -> FloatArray:
        """Return `draws` independent draws of each p after the same outcomes, shape (draws, n), in [0, 1]."""
        ...


@dataclass(frozen=True, slots=True)
class BetaLaw:
    """Beta(m V, m (1 - V)) with one strength m > 0: conjugate, so in closed form."""

    strength: float
    dispersion: float = 1.0

    def posterior(self, prior: FloatArray, sums: FloatArray, sizes: FloatArray) -> Posterior:
        """See `Law`."""
        size = self.strength + sizes / self.dispersion
        mean = np.clip((self.strength * prior + sums / self.dispersion) / size, 0.0, 1.0)
        return Posterior(mean, mean * (1.0 - mean) / (size + 1.0), size)

    def draw(
        self, prior: FloatArray, sums: FloatArray, sizes: FloatArray, *, rng: np.random.Generator, draws: int
    ) -> FloatArray:
        """See `Law`."""
        successes = self.strength * prior + sums / self.dispersion
        failures = self.strength * (1.0 - prior) + (sizes - sums) / self.dispersion
        return rng.beta(np.maximum(successes, CERTAIN), np.maximum(failures, CERTAIN), (draws, prior.size))


Column = tuple[int, float]
"""Size of groups and sum of their outcomes."""
Row = tuple[float, ...]


@dataclass(frozen=True)
class LearnedLaw:
    """A mixture fitted to past groups; `LearnedLaw()` has seen none.

    Attributes:
        columns: decayed number of whole groups by size and sum, at each of `NODES` values of V.
        seen: decayed number of first waves at each value of V.
        means: sums of their mean outcomes. Whole groups would not do: those that stop early lie too far out.
        shares: of the mixture's parts, adding up to 1: `STRENGTHS` around mu(V), then the one around V.
        dispersion: of outcomes, see the module.
    """

    columns: Mapping[Column, Row] = field(default_factory=dict)
    seen: Row = _NOTHING
    means: Row = _NOTHING
    shares: Row = START
    dispersion: float = 1.0

    def posterior(self, prior: FloatArray, sums: FloatArray, sizes: FloatArray) -> Posterior:
        """See `Law`. In blocks of `AT_ONCE`, so that memory stays bounded where hardly two sums are alike."""
        starts = range(0, max(prior.size, 1), AT_ONCE)
        blocks = [self._block(*(each[start : start + AT_ONCE] for each in (prior, sums, sizes))) for start in starts]
        return Posterior(
            np.concatenate([block.mean for block in blocks]), np.concatenate([block.variance for block in blocks])
        )

    def _block(self, prior: FloatArray, sums: FloatArray, sizes: FloatArray) -> Posterior:
        pairs, which = np.unique(sizes + 1j * sums, return_inverse=True)
        likelihood = _likelihood(pairs.real, pairs.imag, self.dispersion)
        moments = np.einsum("ur,nr->un", likelihood, self._weighed).reshape(-1, NODES, len(_MOMENTS))
        low, part = _place(prior)
        at = (1.0 - part)[:, None] * moments[which, low] + part[:, None] * moments[which, low + 1]
        mean = at[:, 1] / at[:, 0]
        variance = np.maximum(at[:, 2] / at[:, 0] - mean**2, 0.0)
        many = sizes > MAX_FLIPS * self.dispersion
        if many.any():
            nothing = np.zeros(int(many.sum()))
            before = self._block(prior[many], nothing, nothing)
            size = before.size + sizes[many] / self.dispersion
            mean[many] = (before.size * before.mean + sums[many] / self.dispersion) / size
            variance[many] = mean[many] * (1.0 - mean[many]) / (size + 1.0)
        return Posterior(mean, variance)

    def draw(
        self, prior: FloatArray, sums: FloatArray, sizes: FloatArray, *, rng: np.random.Generator, draws: int
    ) -> FloatArray:
        """See `Law`. Draws fill the cells of the grid evenly, in the angle whose cosine is 1 - 2p."""
        low, part = _place(prior)
        chance = (1.0 - part)[:, None] * self.table[low] + part[:, None] * self.table[low + 1]
        chance *= _likelihood(sizes, sums, self.dispersion)
        edges = np.cumsum(chance, axis=1)
        ranks = rng.random((draws, prior.size)) * edges[:, -1]
        cells = (ranks[:, :, None] > edges[None]).sum(axis=2)
        angles = np.pi * (cells + rng.random(cells.shape)) / RATES
        drawn: FloatArray = (1.0 - np.cos(angles)) / 2.0
        return drawn

    @property
    def groups(self) -> float:
        """Decayed number of groups that it was learned from."""
        return math.fsum(math.fsum(column) for column in self.columns.values())

    @cached_property
    def table(self) -> FloatArray:
        """Chance of each rate on the grid at each value of V, shape (NODES, RATES); rows add up to 1."""
        counts, likelihood = self._counted()
        mixture = np.einsum("c,ncr->nr", np.array(self.shares), self._parts())
        law: FloatArray = mixture
        for _ in range(SHAPE_STEPS if self.columns else 0):
            expected = law * ((counts / (law @ likelihood.T)) @ likelihood) + CONCENTRATION * mixture
            law = expected / expected.sum(axis=1, keepdims=True)
        return law

    @cached_property
    def _weighed(self) -> FloatArray:
        """The table times the moments of each rate, shape (NODES * moments, RATES)."""
        return (self.table[:, None] * _MOMENTS).reshape(-1, RATES)

    def scaled(self, factor: float) -> LearnedLaw:
        """Return the law with every count times `factor`."""
        columns = {place: _times(column, factor) for place, column in self.columns.items()}
        return replace(self, columns=_kept(columns), seen=_times(self.seen, factor), means=_times(self.means, factor))

    def calibrated(self, prior: FloatArray, sums: FloatArray, sizes: FloatArray, factor: float) -> LearnedLaw:
        """Return the law after further first waves, sizes >= 1; those before them count `factor` times."""
        at = _spread(prior)
        return replace(
            self,
            seen=_plus(_times(self.seen, factor), tuple(at.sum(axis=0).tolist())),
            means=_plus(_times(self.means, factor), tuple((sums / sizes @ at).tolist())),
        )

    def learned(
        self, prior: FloatArray, sums: FloatArray, sizes: FloatArray, factor: float, dispersion: float
    ) -> LearnedLaw:
        """Return the law after further whole groups, sizes >= 1; those before them count `factor` times.

        It does not matter why a group stopped where it did, as long as only its outcomes and V decided that.
        """
        columns = {place: _times(column, factor) for place, column in self.columns.items()}
        joined = _joined(columns, _columns(prior, sums, sizes))
        return replace(self, columns=_kept(joined), dispersion=dispersion).refitted()

    def merged(self, other: LearnedLaw, dispersion: float) -> LearnedLaw:
        """Return the law of the groups of both (commutative), refitted."""
        columns = _joined(self.columns, other.columns)
        seen, means = _plus(self.seen, other.seen), _plus(self.means, other.means)
        if not (self.columns and other.columns):
            return LearnedLaw(columns, seen, means, (self if self.columns else other).shares, dispersion)
        mine = self.groups / (self.groups + other.groups)
        start = _plus(_times(self.shares, mine), _times(other.shares, 1.0 - mine))
        return LearnedLaw(_kept(columns), seen, means, start, dispersion).refitted()

    def to_dict(self) -> dict[str, Any]:
        """Return the state for JSON."""
        rows = [[size, total, list(column)] for (size, total), column in self.columns.items()]
        return {
            "columns": rows,
            "seen": list(self.seen),
            "means": list(self.means),
            "shares": list(self.shares),
            "dispersion": self.dispersion,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> LearnedLaw:
        """Return the law that `to_dict` gave.

        Raises:
            InvalidInput: a field is missing, not a number, negative or not finite.
        """
        try:
            columns = {(int(size), float(total)): tuple(map(float, column)) for size, total, column in state["columns"]}
            seen, means, shares = (tuple(map(float, state[name])) for name in ("seen", "means", "shares"))
            dispersion = float(state["dispersion"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(f"law of rates: a field is missing or not a number: {error!r}") from error
        values = [value for column in columns.values() for value in column]
        fits = all(len(row) == NODES for row in (seen, means, *columns.values())) and len(shares) == len(START)
        places = all(1 <= size <= MAX_SIZE and 0.0 <= total <= size for size, total in columns)
        sound = all(math.isfinite(value) and value >= 0.0 for value in (*values, *seen, *means, *shares))
        sound = sound and 0.0 < dispersion <= 1.0 and math.isclose(math.fsum(shares), 1.0, abs_tol=1e-6)
        if not (fits and places and sound):
            raise InvalidInput("law of rates: counts and shares do not fit together")
        return cls(columns, seen, means, shares, dispersion)

    def refitted(self) -> LearnedLaw:
        """Move the shares towards the most likely ones."""
        if not self.columns:
            return self
        counts, likelihood = self._counted()
        parts = self._parts().swapaxes(0, 1)
        chance = (parts @ likelihood.T).reshape(len(parts), -1)  # of each part, of every cell of `counts`
        start, shares = START_GROUPS * np.array(START), np.array(self.shares)
        for _ in range(SHARE_STEPS):
            shares = start + shares * (chance @ (counts.ravel() / (shares @ chance)))
            shares /= shares.sum()
        return replace(self, shares=tuple(shares.tolist()))

    def _counted(self) -> tuple[FloatArray, FloatArray]:
        """Return counts, shape (NODES, columns), and each column's likelihood of the rates, shape (columns, RATES)."""
        counts = np.array(list(self.columns.values()), dtype=np.float64).reshape(-1, NODES).T
        sizes, sums = np.array(list(self.columns), dtype=np.float64).reshape(-1, 2).T
        return counts, _likelihood(sizes, sums, self.dispersion)

    def _parts(self) -> FloatArray:
        """Return the laws that are mixed, shape (NODES, parts, RATES)."""
        centre = self._recalibrated()
        around = _beta_laws(centre, np.array(STRENGTHS))
        plain = _beta_laws(np.clip(_VALUES, EDGE, 1.0 - EDGE), np.array([PLAIN_STRENGTH]))
        return np.concatenate([around, plain], axis=1)

    def _recalibrated(self) -> FloatArray:
        """Return mu at each value of V, shape (NODES,)."""
        groups, means = np.array(self.seen), np.array(self.means)
        seen = groups > NEGLIGIBLE
        bias = means[seen] / groups[seen] - _VALUES[seen]
        noisy = _KRIGING[np.ix_(seen, seen)] + np.diag(CALIBRATION_NOISE / groups[seen])
        return np.clip(_VALUES + _KRIGING[:, seen] @ np.linalg.solve(noisy, bias), EDGE, 1.0 - EDGE)


def _times(row: Row, factor: float) -> Row:
    return tuple(factor * value for value in row)


def _plus(row: Row, other: Row) -> Row:
    return tuple(a + b for a, b in zip(row, other, strict=True))


def _joined(columns: Mapping[Column, Row], more: Mapping[Column, Row]) -> dict[Column, Row]:
    """Return the counts of both."""
    added = {place: _plus(columns.get(place, _NOTHING), column) for place, column in more.items()}
    return {**columns, **added}


def _kept(columns: Mapping[Column, Row]) -> dict[Column, Row]:
    """Return the columns in order, without those that have faded."""
    return {place: column for place, column in sorted(columns.items()) if math.fsum(column) > NEGLIGIBLE}


def _spread(prior: FloatArray) -> FloatArray:
    """Return each prior as weights of the two values of V around it, shape (n, NODES)."""
    low, part = _place(prior)
    at, rows = np.zeros((prior.size, NODES)), np.arange(prior.size)
    at[rows, low], at[rows, low + 1] = 1.0 - part, part
    return at


def _place(prior: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return the value of V below each prior, and how far the prior is on its way to the next, in [0, 1]."""
    place = prior * (NODES - 1)
    low = np.minimum(place.astype(np.int64), NODES - 2)
    return low, place - low


def _likelihood(sizes: FloatArray, sums: FloatArray, dispersion: float) -> FloatArray:
    """Return how likely each group makes each rate, up to a factor, shape (n, RATES), largest 1."""
    logs = (np.outer(sums, _LOG_P) + np.outer(sizes - sums, _LOG_Q)) / dispersion
    likelihood: FloatArray = np.exp(logs - logs.max(axis=1, keepdims=True, initial=-np.inf))
    return likelihood


def _beta_laws(centre: FloatArray, strengths: FloatArray) -> FloatArray:
    """Return Beta laws on the grid, shape (NODES, strengths, RATES). The grid is even in the angle: dp ~ sqrt(pq)."""
    first, second = np.outer(centre, strengths) - 0.5, np.outer(1.0 - centre, strengths) - 0.5
    logs = first[..., None] * _LOG_P + second[..., None] * _LOG_Q
    laws = np.exp(logs - logs.max(axis=2, keepdims=True))
    return laws / laws.sum(axis=2, keepdims=True)  # type: ignore[no-any-return]


def _columns(prior: FloatArray, sums: FloatArray, sizes: FloatArray) -> dict[Column, Row]:
    """Count groups by size and sum at each value of V: each at the two values and the two sums next to its own."""
    kept = np.minimum(sizes, MAX_SIZE)
    fine = np.minimum(STEPS_PER_OUTCOME, MAX_SIZE / kept).astype(np.int64)
    step = sums * (kept / sizes) * fine
    under = np.floor(step + 1e-9)
    over = np.clip(step - under, 0.0, 1.0)
    places = np.concatenate([kept + 1j * (under / fine), kept + 1j * ((under + 1.0) / fine)])
    columns, which = np.unique(places, return_inverse=True)
    counts, at = np.zeros((columns.size, NODES)), _spread(prior)
    for mine, share in zip(which.reshape(2, -1), (1.0 - over, over), strict=True):
        np.add.at(counts, mine, share[:, None] * at)
    return {
        (int(place.real), float(place.imag)): tuple(column.tolist())
        for place, column in zip(columns, counts, strict=True)
        if column.any()
    }
