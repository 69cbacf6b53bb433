"""Who trains: teams, their runs, and the rhythm of each run.

Three kinds of run. Most are small and quick (a person tries something), some are the ordinary size of published work,
few are large and slow; small ones call most often, large ones carry most rollouts. Teams are unequal: their shares fall
as 1 / rank^0.8, and one giant team has 5 in 100 of all runs. Times within a kind are log-uniform, for trainers differ
by hardware and length of answers. Every group draws a first wave; 0.6 of the groups go on after each report.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmarks.scale.times import Times

GO_ON = 0.6
"""Share of groups that draw another wave after a report: what the default price asks for on the arena's data."""
GIANT = 0.05
"""Share of all runs that one team has: 500 of 10,000."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of run: its share, groups per step, reports per step, seconds per wave and seconds of training."""

    name: str
    share: float
    groups: tuple[int, int]
    waves: int
    wave_s: tuple[float, float]
    train_s: tuple[float, float]


KINDS = (
    Kind("small", 0.60, (8, 32), 2, (4.0, 15.0), (4.0, 15.0)),
    Kind("medium", 0.30, (32, 128), 3, (15.0, 60.0), (15.0, 60.0)),
    Kind("large", 0.10, (256, 512), 3, (60.0, 180.0), (60.0, 240.0)),
)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One run: groups per step, reports per step, seconds per wave and of training."""

    team: int
    kind: str
    groups: int
    waves: int
    wave_s: float
    train_s: float

    @property
    def period_s(self) -> float:
        """Seconds of one step when no call takes any time."""
        return self.waves * self.wave_s + self.train_s

    def calls(self) -> list[tuple[str, int]]:
        """Return the calls of one step with their groups."""
        alive = [max(1, round(self.groups * GO_ON**wave)) for wave in range(self.waves)]
        reports = [("observe" if wave < self.waves - 1 else "last", count) for wave, count in enumerate(alive)]
        return [("open", self.groups), *reports, ("close", self.groups)]


@dataclass(frozen=True)
class Mix:
    """All runs of some teams; team 0 is the giant."""

    teams: int
    runs: list[RunSpec] = field(repr=False)

    def offered(self, times: Times) -> dict[str, float]:
        """Return calls and groups per second, and cores of service and databases kept busy, without any queue."""
        rates = [(1.0 / run.period_s, run) for run in self.runs]
        costs = [(rate, times.cost(call, groups)) for rate, run in rates for call, groups in run.calls()]
        return {
            "calls_per_s": sum(rate * len(run.calls()) for rate, run in rates),
            "groups_per_s": sum(rate * run.groups for rate, run in rates),
            "service_cores": sum(rate * cost.cpu for rate, cost in costs),
            "database_cores": sum(rate * cost.db for rate, cost in costs),
        }

    def held(self, team: int, times: Times, round_trip_s: float) -> float:
        """Return the share of time for which a team's row is held, without any queue."""
        own = [run for run in self.runs if run.team == team]
        return sum(times.cost(*call).held(round_trip_s) / run.period_s for run in own for call in run.calls())


def make(teams: int, runs: int, seed: int, giant: float = GIANT) -> Mix:
    """Draw the runs of `teams` teams, the giant's included."""
    rng = np.random.default_rng(seed)
    shares = np.arange(1, teams) ** -0.8
    shares = np.concatenate([[giant], (1.0 - giant) * shares / shares.sum()])
    owners = np.sort(rng.choice(teams, size=runs, p=shares))
    kinds = rng.choice(len(KINDS), size=runs, p=[kind.share for kind in KINDS])
    return Mix(teams, [_run(int(team), KINDS[kind], rng) for team, kind in zip(owners, kinds, strict=True)])


def _run(team: int, kind: Kind, rng: np.random.Generator) -> RunSpec:
    return RunSpec(
        team=team,
        kind=kind.name,
        groups=round(_between(kind.groups, rng)),
        waves=kind.waves,
        wave_s=_between(kind.wave_s, rng),
        train_s=_between(kind.train_s, rng),
    )


def _between(ends: tuple[float, float], rng: np.random.Generator) -> float:
    return float(math.exp(rng.uniform(math.log(ends[0]), math.log(ends[1]))))


def place(team: str, databases: int) -> int:
    """Return the database of a team by rendezvous hashing: one more database moves only its own share of teams.

    Raises:
        ValueError: there is no database.
    """
    if databases < 1:
        raise ValueError("a team needs at least one database")
    return max(range(databases), key=lambda one: hashlib.sha256(f"{team}\0{one}".encode()).digest())


def moved(teams: int, databases: int) -> list[int]:
    """Return how many of `teams` teams move when there is one more database, up to `databases`."""
    homes = [[place(f"team-{team}", count) for team in range(teams)] for count in range(1, databases + 1)]
    return [sum(old != new for old, new in zip(before, after, strict=True)) for before, after in pairwise(homes)]
