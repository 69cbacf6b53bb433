"""The service's side: replicas with an event loop and a pool of connections each, databases with cores and team rows.

A call takes its way through them as a real one does: admission (the service's own `Gate`), the replica's one core, a connection, statements, the
team's row until the commit, the answer. Whatever waits holds what it has: a call that waits for a hot team's row holds
a connection, and one that holds the row waits for its replica's core like everybody else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.scale.events import Cores, Loop, Process, Slots, Wait
from benchmarks.scale.mix import place
from benchmarks.scale.times import Cost, Times
from services.kit.admission import Gate, Limits, Ticket

Status = Literal["ok", "busy", "away"]
NETWORK_S = 0.0005
"""One way between trainer and replica, in one region."""
GROUP_BYTES = 80
"""Of a body, per group."""
SHED_S = 0.0003
"""CPU of an answer that is refused at the door."""
TURNS = 4
"""Changes between service and database while the row is held: each waits for its core anew. Real calls change more
often, with less work each time."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What one region runs on, and its bounds."""

    replicas: int
    databases: int = 1
    database_cores: int = 16
    connections: int = 10
    units: int = 8
    team_units: int = 4
    queue: int = 256
    wait_s: float = 2.0
    lock_s: float = 2.0
    pool_s: float = 5.0
    round_trip_s: float = 0.0003


@dataclass
class Database:
    """One PostgreSQL server."""

    cpu: Cores
    up: bool = True
    failures: int = 0
    silent: bool = False


@dataclass
class Team:
    """One team: its database, its row."""

    database: Database
    row: Slots
    number: int


@dataclass
class Replica:
    """One process of the allocator."""

    cpu: Cores
    pools: dict[int, Slots]
    gate: Gate
    in_flight: int = 0
    leaving: bool = False
    waiting: dict[int, Wait] = field(default_factory=dict)

    def tell(self, loop: Loop, tickets: list[Ticket]) -> None:
        """Wake those whose tickets have changed."""
        for ticket in tickets:
            if (wait := self.waiting.pop(id(ticket), None)) is not None:
                loop.wake(wait, ticket.state == "working")


@dataclass(slots=True)
class Call:
    """One request of a run: `steps` are those whose close it carries."""

    kind: str
    groups: int
    team: Team
    booked: set[int]
    steps: tuple[int, ...] = ()


class Region:
    """Replicas and databases that share nothing with another region."""

    def __init__(self, loop: Loop, deployment: Deployment, times: Times, teams: int, seed: int) -> None:
        self.loop = loop
        self.deployment = deployment
        self.times = times
        self.databases = [Database(Cores(loop, deployment.database_cores)) for _ in range(deployment.databases)]
        homes = [place(f"team-{team}", deployment.databases) for team in range(teams)]
        self.teams = [Team(self.databases[home], Slots(loop, 1), team) for team, home in enumerate(homes)]
        self.replicas = [self._replica() for _ in range(deployment.replicas)]
        self.busy = 0
        self.answered = 0
        self._choice = random.Random(seed)  # noqa: S311 - chooses a replica

    def send(self, call: Call, deadline_s: float) -> Wait:
        """Send a call through the balancer; yield what is returned: its status, or None at the deadline."""
        reply = Wait(deadline_s)
        there = [replica for replica in self.replicas if not replica.leaving]
        self.loop.spawn(self._serve(call, self._choice.choice(there), reply), NETWORK_S)
        return reply

    def restart(self, notice_s: float, start_s: float) -> Process:
        """Replace one replica after the other: out of the balancer, drained, started anew."""
        for replica in self.replicas:
            replica.leaving = True
            yield notice_s
            while replica.in_flight:
                yield 0.1
            yield start_s
            replica.leaving = False

    def fail(self, database: Database, seconds: float, *, silent: bool) -> Process:
        """Lose a database for some seconds: connections are refused or, if silent, never answered."""
        database.up, database.silent = False, silent
        database.failures += 1
        yield seconds
        database.up = True

    def _replica(self) -> Replica:
        pools = {id(one): Slots(self.loop, self.deployment.connections) for one in self.databases}
        bounds = self.deployment
        limits = Limits(1e9, 1e9, 1e12, 1e12, bounds.units, bounds.team_units, bounds.queue, bounds.wait_s, 1e9)
        return Replica(Cores(self.loop, 1), pools, Gate(limits, 0.0))

    def _serve(self, call: Call, replica: Replica, reply: Wait) -> Process:
        replica.in_flight += 1
        ticket, shed = replica.gate.arrive(str(call.team.number), GROUP_BYTES * call.groups, self.loop.now)
        assert isinstance(ticket, Ticket)  # noqa: S101 - the rates are above anything that comes
        replica.tell(self.loop, shed)
        status: Status = "busy"
        if ticket.state == "waiting":
            yield from self._in_line(ticket, replica)
        if ticket.state == "working":
            status = yield from self._handle(call, replica)
            replica.tell(self.loop, replica.gate.leave(ticket))
        else:
            yield replica.cpu.work(SHED_S)
        self.busy += status == "busy"
        self.answered += status == "ok"
        replica.in_flight -= 1
        yield NETWORK_S
        self.loop.wake(reply, status)

    def _in_line(self, ticket: Ticket, replica: Replica) -> Process:
        wait = Wait(self.deployment.wait_s)
        replica.waiting[id(ticket)] = wait
        if (yield wait) is None:
            del replica.waiting[id(ticket)]
            replica.tell(self.loop, replica.gate.give_up(ticket))

    def _handle(self, call: Call, replica: Replica) -> Process:
        cost = self.times.cost(call.kind, call.groups)
        yield replica.cpu.work(cost.cpu_before)
        pool = replica.pools[id(call.team.database)]
        if not pool.take() and not (yield pool.wait(self.deployment.pool_s)):
            return "busy"
        status = yield from self._transact(call, replica, cost)
        pool.give()
        if status == "ok":
            yield replica.cpu.work(cost.cpu_after)
        return status

    def _transact(self, call: Call, replica: Replica, cost: Cost) -> Process:
        database, row = call.team.database, call.team.row
        if not database.up:
            if database.silent:
                yield self.deployment.pool_s
            return "away"
        failures, trip_s = database.failures, self.deployment.round_trip_s
        yield database.cpu.work(cost.db_before) + trip_s * cost.statements_before
        if not row.take() and not (yield row.wait(self.deployment.lock_s)):
            return "busy"
        for _ in range(TURNS):
            yield replica.cpu.work(cost.cpu_held / TURNS)
            yield database.cpu.work(cost.db_held / TURNS) + trip_s * cost.statements_held / TURNS
            if database.failures != failures:
                row.give()
                return "away"
        yield cost.commit + trip_s
        row.give()
        if database.failures != failures:
            return "away"
        call.booked.update(call.steps)
        return "ok"
