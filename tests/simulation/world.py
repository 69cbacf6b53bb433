"""One history: teams with trainers, replicas on one database, operators, and what goes wrong, all from one seed.

A history has a storm, which lasts for so many steps, and a calm, in which trainers finish what they began, everything
that is on its way arrives, and nothing may be missing. A step is a message that went its way, a fault of a machine or
an operator's change; whatever a transaction commits is checked when it commits.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

from rollout_budget.client import _exchange, _http
from rollout_budget.errors import RolloutBudgetError
from rollout_budget.wire import RunLimits, RunPatch, TeamLimits
from tests.simulation.account import Account
from tests.simulation.clock import Stuck, VirtualLoop, run
from tests.simulation.database import Database
from tests.simulation.network import Network, Priors, Replica
from tests.simulation.trainer import Trainer
from tests.simulation.weather import PLANT, Weather

START_S = 1_790_013_600.0
"""2026-09-21 16:40 UTC: hours of virtual time pass midnight, and with it a daily limit."""
CALM_S = 20_000.0
"""Longest that trainers may need to finish in the calm (G22)."""
AUDIT_EVERY = 100
"""Steps between two audits by the ledger's own auditor, beside the sums kept here."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a history was: `violations` in the order found, `at` the step of the first, `digest` of the whole trace."""

    seed: int
    steps: int
    virtual_s: float
    transactions: int
    training_steps: int
    rollouts: int
    faults: Counter[str]
    violations: tuple[str, ...]
    digest: str


def simulate(seed: int, steps: int, trace: Callable[[str], None] | None = None) -> Report:
    """Live through the history of a seed, its storm `steps` long; `trace` gets every line of it."""
    loop = VirtualLoop()
    with _only_virtual(loop, seed):
        world = World(loop, seed, steps, trace)
        try:
            run(world.history(), loop)
        except Stuck as error:
            world.account.broken("G12", str(error))
    return world.report()


class World:
    """Everything in one history."""

    def __init__(self, loop: VirtualLoop, seed: int, steps: int, trace: Callable[[str], None] | None) -> None:
        self._loop, self._seed, self._most, self._trace = loop, seed, steps, trace
        self.random = Random(seed)  # noqa: S311  a history, not a secret
        self.weather = Weather.of(self.random)
        self.account = Account(self.now)
        self.database = Database(self.now, self.weather, self.account)
        self.priors = Priors()
        self._digest = hashlib.sha256()
        self._steps = 0
        self._storm_is_over = asyncio.Event()
        self._lives: dict[int, asyncio.Task[None]] = {}

    def now(self) -> float:
        """Seconds since the epoch, by the database's clock."""
        return START_S + self._loop.time()

    def step(self, what: str) -> None:
        """Count a step and put it into the trace."""
        self._steps += 1
        line = f"{self._steps} {self._loop.time():.6f} {what}"
        self._digest.update(line.encode())
        if self._trace is not None:
            self._trace(line)
        if self._steps >= self._most or self.account.violations:
            self._storm_is_over.set()

    async def history(self) -> None:
        """The storm, then the calm."""
        weather = self.weather
        self.replicas = [Replica(f"replica-{n}", self.database, self.priors) for n in range(weather.replicas)]
        self.network = Network(self.replicas, weather, self.account, self.step)
        self.trainers = [
            Trainer(f"team-{team}", f"run-{team}-{number}", self.network, weather, self.account)
            for team in range(weather.teams)
            for number in range(weather.trainers)
        ]
        for place in range(len(self.trainers)):
            self._live(place)
        storm = [asyncio.ensure_future(self._happen(kind)) for kind in weather.plant]
        storm.append(asyncio.ensure_future(self._audit()))
        await self._storm_is_over.wait()
        for task in storm:
            task.cancel()
        if not self.account.violations:
            await self._calm()

    async def _calm(self) -> None:
        """Let everything come back and every trainer finish; then nothing may be held, lost or doubled."""
        self.weather.calm = True
        self.database.away = self.priors.away = False
        for replica in self.replicas:
            if not replica.up:
                replica.start()
        try:
            async with asyncio.timeout(CALM_S):
                for place in range(len(self.trainers)):
                    await self._lives[place]
                await self.network.settled()
        except TimeoutError:
            self.account.broken("G22", f"trainers have not finished {CALM_S:.0f} s after the last fault")
            return
        engine = self.replicas[0].engine
        await engine.deliver_evidence()
        for run_id, sums in self.account.sums.items():
            if sums["reserved"]:
                self.account.broken("G6", f"{run_id} has ended and still holds {sums['reserved']} rollouts")
        self.account.nothing_lost({group for trainer in self.trainers for group in trainer.reported})
        if (trials := self.priors.trials()) > sum(self.account.drawn.values()):
            self.account.broken("G9", f"{trials:.0f} outcomes became evidence, more than were drawn")
        await self._audited()

    def report(self) -> Report:
        """Return what happened."""
        return Report(
            seed=self._seed,
            steps=self._steps,
            virtual_s=self._loop.time(),
            transactions=self.account.transactions,
            training_steps=sum(trainer.steps_done for trainer in self.trainers),
            rollouts=sum(self.account.drawn.values()),
            faults=+self.weather.seen,
            violations=tuple(self.account.violations),
            digest=self._digest.hexdigest()[:16],
        )

    def _live(self, place: int) -> None:
        self._lives[place] = asyncio.ensure_future(self.trainers[place].live())

    async def _audit(self) -> None:
        while True:
            await asyncio.sleep(60.0)
            await self._audited()

    async def _audited(self) -> None:
        """G2, by the ledger's own auditor."""
        async with self.database.inner.transaction() as transaction:
            for found in await transaction.ledger.audit():
                self.account.broken("G2", f"the auditor found {found}")

    # What goes wrong, and what operators do.

    async def _happen(self, kind: str) -> None:
        """Let one kind of trouble happen again and again."""
        mean_s = self.weather.plant[kind]
        while True:
            await asyncio.sleep(self.random.expovariate(1.0) * mean_s)
            await TROUBLES[kind](self)

    def _strike(self, kind: str, detail: str) -> None:
        self.weather.seen[kind] += 1
        self.step(f"{kind}: {detail}")

    async def _replica_crash(self) -> None:
        replica = self.random.choice(self.replicas)
        if replica.up:
            self._strike("replica crash", f"{replica.name}, {replica.crash()} requests in flight")
            await asyncio.sleep(self.random.choice((0.0, 1.0, 30.0)))
            replica.start()

    async def _database_away(self) -> None:
        self.database.away = True
        self._strike("database away", "")
        await asyncio.sleep(self.random.choice((0.5, 5.0, 60.0)))
        self.database.away = False

    async def _priors_away(self) -> None:
        self.priors.away = True
        self._strike("priors away", "")
        await asyncio.sleep(self.random.choice((5.0, 60.0)))
        self.priors.away = False

    async def _client_crash(self) -> None:
        place = self.random.randrange(len(self.trainers))
        self._lives[place].cancel()
        self._strike("client crash", self.trainers[place].run)
        self.trainers[place].rebirth()
        self._live(place)

    async def _client_clock_jump(self) -> None:
        trainer, jump_s = self.random.choice(self.trainers), self.random.choice((1.0, 3600.0, 86_400.0))
        trainer.clock_offset_s += jump_s
        self._strike("client clock jump", f"{trainer.run} by {jump_s:.0f} s")

    async def _long_pause(self) -> None:
        """A trainer hangs for longer than any lease, as it may in a file system."""
        trainer = self.random.choice(self.trainers)
        trainer.hangs_s = self.random.choice((600.0, 7200.0))
        self._strike("long pause", f"{trainer.run} for {trainer.hangs_s:.0f} s")

    async def _team_limit_set(self) -> None:
        team = self.random.choice(self.trainers).team
        total, day, month = (self.random.choice(self.weather.limits) for _ in range(3))
        limits = TeamLimits(rollouts=total, rollouts_per_day=day, rollouts_per_month=month)
        self._strike("team limit set", f"{team} {total} {day} {month}")
        await self._operate(lambda replica: replica.engine.set_team_limits(team, limits))

    async def _run_limit_set(self) -> None:
        trainer = self.random.choice(self.trainers)
        total, step = (self.random.choice(self.weather.limits) for _ in range(2))
        patch = RunPatch(limits=RunLimits(rollouts=total, rollouts_per_step=step))
        self._strike("run limit set", f"{trainer.run} {total} {step}")
        await self._operate(lambda replica: replica.engine.patch_run(trainer.team, trainer.run, patch))

    async def _run_finished(self) -> None:
        trainer = self.random.choice(self.trainers)
        if self.random.random() < 0.1:
            trainer.ended = True
            self._strike("run finished by operator", trainer.run)
            await self._operate(lambda replica: replica.engine.finish_run(trainer.team, trainer.run))

    async def _operate(self, command: Callable[[Replica], Coroutine[Any, Any, object]]) -> None:
        try:
            await command(self.random.choice(self.replicas))
        except RolloutBudgetError as error:
            self.step(f"the operator is told: {error}")


TROUBLES: dict[str, Callable[[World], Coroutine[Any, Any, None]]] = {
    "replica crash": World._replica_crash,
    "database away": World._database_away,
    "client crash": World._client_crash,
    "client clock jump": World._client_clock_jump,
    "long pause": World._long_pause,
    "team limit set": World._team_limit_set,
    "run limit set": World._run_limit_set,
    "run finished by operator": World._run_finished,
    "priors away": World._priors_away,
}
assert set(TROUBLES) == set(PLANT)  # every kind of trouble can happen


@contextmanager
def _only_virtual(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """Give the client virtual time and the seed's randomness, and keep its warnings to the trace."""
    log = logging.getLogger("rollout_budget.client")
    level, jitter = log.level, Random(seed)  # noqa: S311  a history, not a secret
    log.setLevel(logging.CRITICAL)
    with (
        mock.patch.object(_http, "time", SimpleNamespace(monotonic=loop.time)),
        mock.patch.object(_exchange, "random", jitter),
    ):
        yield
    log.setLevel(level)
