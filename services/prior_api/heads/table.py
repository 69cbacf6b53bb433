"""Evidence as arrays for the Gaussian process: cells in one order, prompts and policies as codes, rates with their noise.

The order does not depend on how the cells came, so equal evidence gives equal arrays, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rollout_budget.outcomes import FloatArray
from services.prior_api.heads.base import Context, Float32Array, Question
from services.prior_api.heads.kernel import Points
from services.prior_api.records import Cell

PRIOR_ROWS = 4.0
"""Rows that the assumptions before any evidence count for: mean rate 1/2, outcome variance 1/8."""
ASSUMED_MEAN = 0.5
ASSUMED_VARIANCE = 1 / 8
"""Half the variance of a fair coin: real prompts are mostly easier or harder than that."""
SMALLEST_VARIANCE = 0.005
"""Of one outcome: keeps the matrix well-conditioned when every prompt is solved or none is."""
UNSEEN = -1
"""Code of a prompt or policy without evidence: equal to no code in a table."""


@dataclass(frozen=True, slots=True)
class Codes:
    """Small integers for the prompts and policies of a table.

    Attributes:
        prompts: by identity.
        policies: by (team, policy).
        width: numbers in a prompt's features.
    """

    prompts: dict[str, int]
    policies: dict[tuple[str, str], int]
    width: int

    def locate(
        self,
        identities: Sequence[str],
        owners: Sequence[tuple[str, str]],
        versions: Sequence[int],
        features: dict[str, Float32Array],
    ) -> Points:
        """Return triples as points; without features a prompt's vector is zero and it counts as not known."""
        vectors = np.zeros((len(identities), self.width), dtype=np.float32)
        known = np.zeros(len(identities), dtype=bool)
        for place, identity in enumerate(identities):
            vector = features.get(identity)
            if vector is not None:
                vectors[place], known[place] = vector, True
        return Points(
            vectors,
            known,
            np.array([self.prompts.get(identity, UNSEEN) for identity in identities], dtype=np.int32),
            np.array([self.policies.get(owner, UNSEEN) for owner in owners], dtype=np.int32),
            np.array(versions, dtype=np.float32),
        )

    def place(self, question: Question) -> Points:
        """Return the prompts of a question as points."""
        count = len(question.identities)
        return self.locate(question.identities, [question.owner] * count, [question.version] * count, question.features)


@dataclass(frozen=True, slots=True)
class Table:
    """`n` cells in order of prompt identity.

    Attributes:
        rates: success rate of each cell, shape (n,).
        noise: variance of that rate around the true one, shape (n,).
        mean: mean rate over all cells, shrunk to 1/2.
        outcome_variance: pooled variance of one outcome, what `noise` is made of.
        places: (team, policy, prompt key, version) of every cell.
        oldest: lowest version of each policy.
    """

    codes: Codes
    points: Points
    rates: FloatArray
    noise: FloatArray
    mean: float
    outcome_variance: float
    places: frozenset[tuple[str, str, str, int]]
    oldest: dict[tuple[str, str], int]

    def left_out(self, cell: Cell) -> bool:
        """Whether a cell is older than what the bound on rows left room for."""
        within = (cell.team, cell.policy, cell.key, cell.version) in self.places
        return not within and cell.version <= self.oldest.get((cell.team, cell.policy), cell.version)

    @classmethod
    def of(cls, context: Context, width: int) -> Table:
        """Bring evidence into order."""
        cells = sorted(context.cells, key=lambda cell: (cell.identity, cell.team, cell.policy, cell.version, cell.key))
        identities = [cell.identity for cell in cells]
        owners = [(cell.team, cell.policy) for cell in cells]
        codes = Codes(
            {identity: code for code, identity in enumerate(dict.fromkeys(identities))},
            {owner: code for code, owner in enumerate(sorted(set(owners)))},
            width,
        )
        points = codes.locate(identities, owners, [cell.version for cell in cells], context.features)
        trials = np.array([cell.trials for cell in cells], dtype=np.float64)
        rates = np.array([cell.successes for cell in cells], dtype=np.float64) / trials
        mean = (rates.sum() + PRIOR_ROWS * ASSUMED_MEAN) / (rates.size + PRIOR_ROWS)
        variance = _outcome_variance(rates, trials)
        places = frozenset((cell.team, cell.policy, cell.key, cell.version) for cell in cells)
        oldest: dict[tuple[str, str], int] = {}
        for owner, cell in zip(owners, cells, strict=True):
            oldest[owner] = min(cell.version, oldest.get(owner, cell.version))
        return cls(codes, points, rates, variance / trials, float(mean), variance, places, oldest)

    def sample(self, most: int) -> Table:
        """Return the rows of the first prompts, about `most` rows; identities are hashes, so that is a fair sample."""
        if self.rates.size <= most:
            return self
        places = np.arange(most)
        return replace(self, points=self.points.take(places), rates=self.rates[places], noise=self.noise[places])


def _outcome_variance(rates: FloatArray, trials: FloatArray) -> float:
    """Pool the unbiased variance of one outcome over cells with 2 or more trials, shrunk to what was assumed."""
    several = trials >= 2
    ratio = trials[several] / (trials[several] - 1)
    pooled = float((ratio * rates[several] * (1 - rates[several])).sum())
    variance = (pooled + PRIOR_ROWS * ASSUMED_VARIANCE) / (int(several.sum()) + PRIOR_ROWS)
    return max(variance, SMALLEST_VARIANCE)
