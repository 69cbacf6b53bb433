"""Priors without a service: what a prompt's own past says, and the running mean where it has none.

Owns the model, and the evidence of one process that stores nothing (the allocator service keeps the same sums in its
database). Evidence fades with the distance between policy versions and does
not depend on the order in which it came. The prior service offers the same among its controls, and better models.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rollout_budget.wire import EvidenceRow, PriorModel, Prompt, Value, ValuesAnswer

HALF_LIFE_VERSIONS = 64.0
"""Policy versions after which an outcome counts half: a pool of prompts recurs within some dozens of steps, and the
last meeting should still speak while the one before it fades."""
MEAN_STRENGTH = 2.0
"""Pseudo-rollouts that the running mean counts for: Laplace's rule, as for a run that knows nothing of its prior."""

REMEMBERED_ROWS = 2**18
"""Ids by which a repeated row is known, the newest: a row comes again with the next delivery or not at all."""


@dataclass(slots=True)
class Tally:
    """Successes and trials by policy version; `rows` counts evidence rows."""

    by_version: dict[int, tuple[float, float]] = field(default_factory=dict)
    rows: int = 0

    def add(self, row: EvidenceRow) -> None:
        """Count a row."""
        successes, trials = self.by_version.get(row.version, (0.0, 0.0))
        self.by_version[row.version] = (successes + row.successes, trials + row.trials)
        self.rows += 1

    def at(self, version: int) -> tuple[float, float]:
        """Return successes and trials as they count for `version`."""
        if not self.by_version:
            return 0.0, 0.0
        versions = np.array(sorted(self.by_version), dtype=np.int64)
        counts = np.array([self.by_version[int(key)] for key in versions], dtype=np.float64)
        successes, trials = 0.5 ** (np.abs(version - versions) / HALF_LIFE_VERSIONS) @ counts
        return float(successes), float(trials)


@dataclass(frozen=True, slots=True)
class Posterior:
    """Successes out of trials, pseudo-rollouts included."""

    successes: float
    trials: float

    def value(self, key: str, rows: int) -> Value:
        """Return the posterior mean and its standard deviation under a Beta law."""
        mean = min(max(self.successes / self.trials, 0.0), 1.0)
        error = (mean * (1.0 - mean) / (self.trials + 1.0)) ** 0.5
        return Value(key=key, value=mean, standard_error=error, evidence_count=rows)


def _constant(own: tuple[float, float], mean: float) -> Posterior:
    del own, mean
    return Posterior(0.5 * MEAN_STRENGTH, MEAN_STRENGTH)


def _running_mean(own: tuple[float, float], mean: float) -> Posterior:
    del own
    return Posterior(mean * MEAN_STRENGTH, MEAN_STRENGTH)


def _history(own: tuple[float, float], mean: float) -> Posterior:
    return Posterior(own[0] + mean * MEAN_STRENGTH, own[1] + MEAN_STRENGTH)


HEADS: Mapping[PriorModel, tuple[PriorModel, Callable[[tuple[float, float], float], Posterior]]] = {
    "constant": ("constant", _constant),
    "running_mean": ("running_mean", _running_mean),
    "history": ("history", _history),
    "gp": ("history", _history),
    "tabpfn": ("history", _history),
    "tabicl": ("history", _history),
}
"""What answers for a model asked for: there is no head that learns from texts without the prior service."""


def predicted(
    version: int,
    prompts: Sequence[Prompt],
    model: PriorModel,
    tallies: Mapping[str, Tally],
    *,
    everything: Tally,
    model_version: str,
) -> ValuesAnswer:
    """Return a value per prompt.

    Args:
        version: of the policy that the values are for.
        prompts: whose; one without a tally has no past.
        model: what was asked for; the answer names what answered.
        tallies: the outcomes of each prompt, by its key.
        everything: those of all prompts of the policy.
        model_version: where the tallies are kept.
    """
    successes, trials = everything.at(version)
    mean = (successes + 0.5 * MEAN_STRENGTH) / (trials + MEAN_STRENGTH)
    name, head = HEADS[model]
    own = [tallies.get(prompt.key, Tally()) for prompt in prompts]
    return ValuesAnswer(
        values=[
            head(tally.at(version), mean).value(prompt.key, tally.rows)
            for prompt, tally in zip(prompts, own, strict=True)
        ],
        model=name,
        model_version=model_version,
        evidence_version=everything.rows,
    )


class HistoryPrior:
    """Obeys `PriorSource`, in process and without ever waiting."""

    def __init__(self) -> None:
        self._prompts: defaultdict[tuple[str, str, str], Tally] = defaultdict(Tally)
        self._policies: defaultdict[tuple[str, str], Tally] = defaultdict(Tally)
        self._seen: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    async def values(
        self, team: str, policy: str, version: int, prompts: Sequence[Prompt], model: PriorModel
    ) -> ValuesAnswer:
        """See `PriorSource`."""
        keys = [prompt.key for prompt in prompts]
        found = {key: self._prompts.get((team, policy, key), Tally()) for key in keys}
        everything = self._policies[team, policy]
        return predicted(version, prompts, model, found, everything=everything, model_version="in-process")

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        """See `PriorSource`."""
        for row in rows:
            if (team, policy, row.id) in self._seen:
                continue
            self._seen[team, policy, row.id] = None
            if len(self._seen) > REMEMBERED_ROWS:
                self._seen.popitem(last=False)
            self._prompts[team, policy, row.key].add(row)
            self._policies[team, policy].add(row)
