"""What is asked of the simulation: how many are needed, what breaks first, what an outage and a restart cost.

Regions share nothing, so that most scenes simulate one region of four: 250 teams, 2,500 runs, the giant team among them.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale.events import Loop
from benchmarks.scale.mix import Mix, make
from benchmarks.scale.times import Times
from benchmarks.scale.trainers import Record, Trainers
from benchmarks.scale.world import Deployment, Region

TEAMS, RUNS, REGIONS = 1_000, 10_000, 4
Floats = NDArray[np.float64]
WARM_S = 60.0
"""Simulated and not counted: queues have found their level."""
CALLS = 40_000
"""Counted in a scene of steady load: the window is as long as these take, 30 s at least."""
TARGET_S = 0.25
"""Wanted of the slowest hundredth of reports."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a steady load did to a deployment; seconds, shares of time, and counts per 100 calls or steps."""

    calls_per_s: float
    p50_s: float
    p99_s: float
    p99_others_s: float
    service: float
    database: float
    row: float
    connections: float
    busy: float
    alone: float
    late: float


@dataclass(frozen=True, slots=True)
class Outage:
    """A region without its database: what its trainers did, and how the backlog went."""

    seconds: Floats
    backlog: Floats
    alone: Floats
    p99_ms: Floats
    steps: int
    steps_alone: int
    steps_late: int
    longest_wait_s: float
    most_behind: int
    found_s: float
    found_others_s: float
    told_s: float
    normal_s: float
    lost: int


def region_mix(seed: int, times_runs: float = 1.0, giant_runs: float = 1.0, split: int = 1) -> Mix:
    """Return the runs of the giant's region, of which there may be `times_runs` as many; the giant's alone grow too.

    With `split`, the giant's runs belong to so many teams.
    """
    runs = round(RUNS * times_runs)
    mix = make(TEAMS, runs, seed)
    here = [run for run in mix.runs if run.team % REGIONS == 0]
    giants = [run for run in here if run.team == 0]
    extra = [giants[index % len(giants)] for index in range(round(len(giants) * (giant_runs - 1.0)))]
    parts = [replace(run, team=REGIONS * (index % split)) for index, run in enumerate([*giants, *extra])]
    return Mix(TEAMS, [*(run for run in here if run.team != 0), *parts])


class Scene:
    """One region with its trainers, begun at moments spread over their steps."""

    def __init__(self, times: Times, deployment: Deployment, mix: Mix, seed: int) -> None:
        random.seed(seed)  # `Retries` draws its jitter from here
        self.loop = Loop()
        self.region = Region(self.loop, deployment, times, mix.teams, seed)
        phases = np.random.default_rng(seed).random(len(mix.runs)).tolist()
        self.trainers = Trainers(self.loop, self.region, mix, phases)
        self.times = times
        self.mix = mix

    def steady(self) -> Load:
        """Let it run and return what a window of it looked like."""
        window = max(30.0, CALLS / self.mix.offered(self.times)["calls_per_s"])
        self.loop.run(WARM_S)
        before = self._busy()
        busy = self.region.busy
        self.loop.run(WARM_S + window)
        used = [(new - old) / window for old, new in zip(before, self._busy(), strict=True)]
        record = self.trainers.record
        seconds, giant = _reports(record, WARM_S, math.inf)
        steps = max(1, sum(moment > WARM_S for moment in record.step_moment))
        alone, late = (
            100 * sum(flag for moment, flag in zip(record.step_moment, flags, strict=True) if moment > WARM_S) / steps
            for flags in (record.step_alone, record.step_late)
        )
        calls = sum(moment > WARM_S for moment in record.moment)
        deployment = self.region.deployment
        return Load(
            calls_per_s=calls / window,
            p50_s=_quantile(seconds, 0.5),
            p99_s=_quantile(seconds, 0.99),
            p99_others_s=_quantile(seconds[giant == 0], 0.99),
            service=used[0] / deployment.replicas,
            database=used[1] / (deployment.databases * deployment.database_cores),
            row=used[2],
            connections=used[3] / (deployment.replicas * deployment.connections * deployment.databases),
            busy=100 * (self.region.busy - busy) / max(1, calls),
            alone=alone,
            late=late,
        )

    def outage(self, begins_s: float, lasts_s: float, ends_s: float, *, silent: bool = False) -> Outage:
        """Take the first database away for a while."""
        region, trainers = self.region, self.trainers
        self.loop.spawn(region.fail(region.databases[0], lasts_s, silent=silent), begins_s)
        self.loop.run(ends_s)
        record = trainers.record
        backlog = np.array(record.backlog)
        trainers.drain()
        self.loop.run(ends_s + 1_800.0)  # nothing new begins, so that this is cheap
        back = begins_s + lasts_s
        moments = np.array(record.step_moment)
        during = (moments >= begins_s) & (moments < ends_s)
        alone = np.array(record.step_alone, dtype=bool)
        level = backlog[int(begins_s / 2) : int(begins_s)].max(initial=0)
        told = next(
            (second for second in range(int(back), len(backlog)) if (backlog[second:] <= level).all()), math.inf
        )
        last_alone = float(moments[alone & during].max(initial=back))
        others = alone & during & (np.array(record.step_giant) == 0)
        p99, usual = self._p99(ends_s), _quantile(_reports(record, begins_s / 2, begins_s)[0], 0.99)
        slow = [10.0 * (place + 1) for place, one in enumerate(p99) if 10.0 * place >= back and one > 2e3 * usual]
        return Outage(
            seconds=np.arange(len(backlog), dtype=float),
            backlog=backlog,
            alone=np.histogram(moments[alone], bins=np.arange(0, ends_s + 10, 10))[0] / 10,
            p99_ms=p99,
            steps=int(during.sum()),
            steps_alone=int((alone & during).sum()),
            steps_late=int((np.array(record.step_late, dtype=bool) & during).sum()),
            longest_wait_s=float(np.array(record.step_waited)[during].max()),
            most_behind=int(backlog.max()),
            found_s=last_alone - back,
            found_others_s=float(moments[others].max(initial=back)) - back,
            told_s=told - back,
            normal_s=max([told - back, last_alone - back, *(one - back for one in slow)]),
            lost=trainers.lost + trainers.backlog,
        )

    def restart(self, begins_s: float, ends_s: float, notice_s: float = 5.0, start_s: float = 5.0) -> Load:
        """Replace the replicas one by one meanwhile; return what the time looked like."""
        self.loop.spawn(self.region.restart(notice_s, start_s), begins_s)
        self.loop.run(ends_s)
        record = self.trainers.record
        seconds, giant = _reports(record, begins_s, ends_s)
        zero = dict.fromkeys(("calls_per_s", "service", "database", "row", "connections"), math.nan)
        steps = [index for index, moment in enumerate(record.step_moment) if moment >= begins_s]
        return Load(
            p50_s=_quantile(seconds, 0.5),
            p99_s=_quantile(seconds, 0.99),
            p99_others_s=_quantile(seconds[giant == 0], 0.99),
            busy=float(self.region.busy),
            alone=100 * sum(record.step_alone[index] for index in steps) / max(1, len(steps)),
            late=100 * sum(record.step_late[index] for index in steps) / max(1, len(steps)),
            **zero,
        )

    def _p99(self, ends_s: float) -> Floats:
        record = self.trainers.record
        return np.array(
            [
                1e3 * _quantile(_reports(record, begins, begins + 10.0)[0], 0.99)
                for begins in np.arange(0.0, ends_s, 10.0)
            ]
        )

    def _busy(self) -> tuple[float, float, float, float]:
        region = self.region
        return (
            sum(replica.cpu.busy_s for replica in region.replicas),
            sum(database.cpu.busy_s for database in region.databases),
            max(team.row.held_s() for team in region.teams),
            sum(pool.held_s() for replica in region.replicas for pool in replica.pools.values()),
        )


def needed(times: Times, seed: int, mix: Mix, deployment: Deployment) -> tuple[int, Load]:
    """Return the fewest replicas with which the slowest hundredth of reports meets `TARGET_S`, and their load."""
    cores = mix.offered(times)["service_cores"]
    for replicas in range(math.ceil(cores / 0.9), 40 * math.ceil(cores)):
        load = Scene(times, replace(deployment, replicas=replicas), mix, seed).steady()
        if load.p99_s <= TARGET_S:
            return replicas, load
        if load.row > 0.95 and load.service < 0.3:
            break
    return replicas, load


def _reports(record: Record, begins_s: float, ends_s: float) -> tuple[Floats, Floats]:
    """Return seconds of the reports (observe) sent in a window, and which were the giant team's."""
    moment, kind = np.frombuffer(record.moment), np.frombuffer(record.kind, dtype=np.int8)
    chosen = (moment >= begins_s) & (moment < ends_s) & ((kind == 1) | (kind == 2))
    return np.frombuffer(record.seconds)[chosen].copy(), np.frombuffer(record.giant, dtype=np.int8)[chosen].copy()


def _quantile(values: Floats, share: float) -> float:
    return float(np.quantile(values, share)) if values.size else math.nan
