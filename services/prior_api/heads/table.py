"""Evidence as arrays for the Gaussian process: cells in one order, prompts and policies as codes, counts as latents.

The order does not depend on how the cells came, so equal evidence gives equal arrays, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rollout_budget.outcomes import FloatArray
from services.prior_api.heads import link
from services.prior_api.heads.base import Context, Float32Array, Question
from services.prior_api.heads.kernel import Points
from services.prior_api.heads.metric import Metric
from services.prior_api.records import Cell

UNSEEN = -1
"""Code of a prompt or policy without evidence: equal to no code in a table."""


@dataclass(frozen=True, slots=True)
class Codes:
    """Small integers for the prompts and policies of a table.

    Attributes:
        prompts: by identity.
        policies: by (team, policy).
        width: numbers in a prompt's unit vector.
        surface: numbers after it that describe the text's surface.
        metric: how both are compared.
    """

    prompts: dict[str, int]
    policies: dict[tuple[str, str], int]
    width: int
    surface: int
    metric: Metric

    def locate(
        self,
        identities: Sequence[str],
        owners: Sequence[tuple[str, str]],
        versions: Sequence[int],
        features: dict[str, Float32Array],
    ) -> Points:
        """Return triples as points; without features a prompt's vector is zero and it counts as not known."""
        vectors = np.zeros((len(identities), self.width + self.surface), dtype=np.float32)
        known = np.zeros(len(identities), dtype=bool)
        for place, identity in enumerate(identities):
            vector = features.get(identity)
            if vector is not None:
                vectors[place], known[place] = vector, True
        return Points(
            self.metric.meaning(vectors[:, : self.width]) * known[:, None],
            self.metric.surface(vectors[:, self.width :]) * known[:, None],
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
        values: what each cell says its latent is, shape (n,).
        noise: variance of that around the true one, shape (n,).
        law: of latents over prompts.
        places: (team, policy, prompt key, version) of every cell.
        oldest: lowest version of each policy.
    """

    codes: Codes
    points: Points
    values: FloatArray
    noise: FloatArray
    law: link.Law
    places: frozenset[tuple[str, str, str, int]]
    oldest: dict[tuple[str, str], int]

    def left_out(self, cell: Cell) -> bool:
        """Whether a cell is older than what the bound on rows left room for."""
        if cell.version > self.oldest.get((cell.team, cell.policy), cell.version):
            return False
        return (cell.team, cell.policy, cell.key, cell.version) not in self.places

    @classmethod
    def of(cls, context: Context, width: int, surface: int = 0) -> Table:
        """Bring evidence into order; features are `width` numbers of a unit vector and `surface` others."""
        cells = sorted(context.cells, key=lambda cell: (cell.identity, cell.team, cell.policy, cell.version, cell.key))
        identities = [cell.identity for cell in cells]
        owners = [(cell.team, cell.policy) for cell in cells]
        codes = Codes(
            {identity: code for code, identity in enumerate(dict.fromkeys(identities))},
            {owner: code for code, owner in enumerate(sorted(set(owners)))},
            width,
            surface,
            _metric(identities, context, width, surface),
        )
        points = codes.locate(identities, owners, [cell.version for cell in cells], context.features)
        trials = np.array([cell.trials for cell in cells], dtype=np.float64)
        successes = np.array([cell.successes for cell in cells], dtype=np.float64)
        law = link.law_of(successes, trials)
        observed = link.observe(successes, trials, law)
        places = frozenset((cell.team, cell.policy, cell.key, cell.version) for cell in cells)
        oldest: dict[tuple[str, str], int] = {}
        for owner, cell in zip(owners, cells, strict=True):
            oldest[owner] = min(cell.version, oldest.get(owner, cell.version))
        return cls(codes, points, observed.values, observed.noise, law, places, oldest)

    def sample(self, most: int) -> Table:
        """Return the rows of the first prompts, about `most` rows; identities are hashes, so that is a fair sample."""
        if self.values.size <= most:
            return self
        places = np.arange(most)
        return replace(self, points=self.points.take(places), values=self.values[places], noise=self.noise[places])


def _metric(identities: Sequence[str], context: Context, width: int, surface: int) -> Metric:
    """Learn the metric from every prompt once, in order of identity."""
    known = [context.features[identity] for identity in dict.fromkeys(identities) if identity in context.features]
    vectors = np.array(known, dtype=np.float32).reshape(len(known), width + surface)
    return Metric.of(vectors[:, :width], vectors[:, width:])
