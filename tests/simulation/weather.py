"""What may go wrong in one history, drawn from its seed: which kinds of faults there are, and how often.

Every history has some kinds and lacks others, at rates of its own: a fault that is always there hides what only happens
without it. Pure: rates and sizes, no effects.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

NETWORK = ("request lost", "answer lost", "connection reset", "duplicated", "delayed", "shed", "failed", "commit lost")
"""Faults of one message, or of the commit that it leads to."""
PLANT = (
    "replica crash",
    "database away",
    "client crash",
    "client clock jump",
    "long pause",
    "team limit set",
    "run limit set",
    "run finished by operator",
    "priors away",
)
"""Faults of machines, and what operators do."""

RATES = (0.01, 0.05, 0.2)
"""Chances that a message suffers a fault of one kind."""
CALM_KINDS = 0.35
"""Chance that a history lacks a kind of fault altogether."""
DAY_S = 86_400.0


@dataclass(slots=True)
class Weather:
    """The settings of one history, and how many faults of each kind it has had.

    Attributes:
        network: chance of each fault per message.
        plant: mean seconds between two faults of each kind; a kind that is absent never happens.
        latency_s: typical time of one way.
        lease_s: leases that trainers ask for.
        limits: sizes of team and run limits to choose from; None is no limit.
    """

    random: Random
    network: dict[str, float]
    plant: dict[str, float]
    latency_s: float
    lease_s: float
    limits: tuple[int | None, ...]
    teams: int
    trainers: int
    replicas: int
    calm: bool = False
    seen: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, random: Random) -> Weather:
        """Draw a history's weather."""
        network = {kind: random.choice(RATES) for kind in NETWORK if random.random() > CALM_KINDS}
        plant = {kind: random.choice((20.0, 100.0, 500.0)) for kind in PLANT if random.random() > CALM_KINDS}
        return cls(
            random=random,
            network=network,
            plant=plant,
            latency_s=random.choice((0.001, 0.02, 0.2)),
            lease_s=random.choice((15.0, 120.0, 900.0)),
            limits=random.choice(((None,), (None, 500, 5000), (0, 20, 60, 200), (10, 40))),
            teams=random.randint(1, 3),
            trainers=random.randint(1, 3),
            replicas=random.randint(1, 3),
        )

    def strikes(self, kind: str) -> bool:
        """Say whether a message suffers a fault of this kind, and count it."""
        struck = not self.calm and self.random.random() < self.network.get(kind, 0.0)
        self.seen[kind] += struck
        return struck

    def way_s(self) -> float:
        """Return the time that one message takes: mostly short, and long enough to be overtaken where delays happen."""
        usual = self.latency_s * self.random.expovariate(1.0)
        return usual + (self.random.uniform(0.0, 40.0) if self.strikes("delayed") else 0.0)
