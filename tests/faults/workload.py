"""Trainers at real services, and what the database must say of them afterwards.

Owns what was drawn, group by group, and the audit: recomputed from the entries in the order in which they were
committed, by plain SQL and a dictionary, beside the service's own auditor.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random

import httpx
from sqlalchemy import text

from rollout_budget.client import AllocatorClient, Breaker, ResilientAllocator, Retries
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    RunSpec,
)
from services.allocator.database.store import SqlStore
from services.kit.database import connect
from services.kit.session import Database

TIMEOUT_S = 4.0
"""Of one attempt: what is stalled is given up soon."""
RETRIES = Retries(attempts=3, wait_initial_s=0.02, wait_max_s=0.5, wait_jitter_s=0.05, timeout_s=10.0)
SETTLED_S = 300.0
"""Longest until a service that is back has taken all that trainers drew meanwhile, on busy cores."""
GROUPS = 4
GENERATION_S = 0.03
"""What a wave takes to be drawn: a trainer that waits for nothing would outrun every allocator in its fallback."""
UP = {"reserve": 1, "overage": 1, "release": -1, "expire": -1}
"""What counts against a limit, by entry; what is committed was reserved before."""


@dataclass(slots=True)
class Drawn:
    """What trainers drew, by group (`run/group/attempt`), and how much they did."""

    rollouts: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    calls: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self, steps: int) -> None:
        """Wait until so many training steps are done."""
        while self.steps < steps:
            self.moved.clear()
            await self.moved.wait()


class Trainer:
    """One run on the project's resilient client, through whatever stands at `url`."""

    def __init__(self, url: str, token: str, run: str, drawn: Drawn, *, seed: int, lease_s: float = 900.0) -> None:
        self.run, self.lease_s = run, lease_s
        self._drawn = drawn
        self._random = Random(seed)  # noqa: S311  outcomes, not secrets
        self._client = AllocatorClient(url, token, timeout=httpx.Timeout(TIMEOUT_S), retries=RETRIES)
        self.allocator = ResilientAllocator(
            self._client,
            notify=lambda _: None,
            deadline_s=15.0,
            breaker=Breaker(probe_after_s=0.2, probe_after_max_s=1.0),
        )

    async def work(self, stop: asyncio.Event) -> None:
        """Declare the run, train until told to stop, and report everything."""
        await self.allocator.create_run(RunSpec(run_id=self.run, policy="p", prior_model="history", k_init=4, k_max=8))
        step = 0
        while not stop.is_set():
            await self._step(step)
            step += 1
        await self.allocator.finish_run(self.run)

    async def settle(self) -> None:
        """Report what is left; to be called when the service is back."""
        async with asyncio.timeout(SETTLED_S):
            while not await self.allocator.flush():  # noqa: ASYNC110  a service that is back gives no signal
                await asyncio.sleep(0.2)
        await self._client.disconnect()

    async def _step(self, step: int) -> None:
        names = [f"s{step}g{place}" for place in range(GROUPS)]
        opening = [OpenGroup(group_id=name, prompt_key=f"p{place}", step=step) for place, name in enumerate(names)]
        opened = await self.allocator.open(self.run, OpenRequest(groups=opening, lease_s=self.lease_s))
        outcomes: dict[str, list[float]] = {}
        for group in opened.groups:
            outcomes[group.group_id] = self._draw(group.group_id, group.grant)
        going = [name for name in names if outcomes[name]]
        while going:
            await asyncio.sleep(GENERATION_S)
            groups = [ObserveGroup(group_id=name, outcomes=list(outcomes[name])) for name in going]
            answer = await self.allocator.observe(self.run, ObserveRequest(groups=groups))
            for decision in answer.groups:
                outcomes[decision.group_id] += self._draw(decision.group_id, decision.more)
            going = [decision.group_id for decision in answer.groups if decision.more]
            self._drawn.calls += 1
        closing = [CloseGroup(group_id=name, used=len(outcomes[name]), outcomes=outcomes[name]) for name in names]
        await self.allocator.close(self.run, CloseRequest(groups=closing))
        self._drawn.steps += 1
        self._drawn.calls += 2
        self._drawn.moved.set()

    def _draw(self, name: str, rollouts: int) -> list[float]:
        self._drawn.rollouts[f"{self.run}/{name}/0"] += rollouts
        return [float(self._random.random() < 0.5) for _ in range(rollouts)]


async def violations(url: str, drawn: Drawn, *, limit: int | None = None) -> list[str]:
    """Return everything in a database that must not be: lost, doubled, overspent, or counted wrong.

    Args:
        url: the database that the services wrote to.
        drawn: what was drawn by trainers that have reported everything.
        limit: of the team in rollouts, if it has had the same one from the beginning.
    """
    engine = connect(url)
    try:
        store = SqlStore(Database(engine))
        async with store.transaction() as transaction:
            found = [f"G2: the auditor found {one}" for one in await transaction.ledger.audit()]
            usage = await transaction.ledger.usage("default", ("team",))
        async with engine.begin() as connection:
            statement = text("SELECT kind, reservation, rollouts FROM entries WHERE team = 'default' ORDER BY entry_id")
            entries = [tuple(row) for row in await connection.execute(statement)]
    finally:
        await engine.dispose()
    found += _histories(entries, limit)
    booked: Counter[str] = Counter()
    for kind, reservation, rollouts in entries:
        if kind in {"commit", "overage"}:
            booked[reservation.rpartition("/")[0]] += rollouts
    found += [
        f"G10: {group}: {drawn.rollouts[group]} drawn, {booked[group]} booked"
        for group in sorted({*drawn.rollouts, *booked})
        if drawn.rollouts[group] != booked[group]
    ]
    if usage and usage[0].counts.reserved:
        found.append(f"G6: {usage[0].counts.reserved} rollouts are held after every run has ended")
    return found


def _histories(entries: list[tuple[str, str, int]], limit: int | None) -> list[str]:
    """Follow the entries in order: what one id may do, and what the team's limit says (G1, G3, G6)."""
    found: list[str] = []
    held: defaultdict[str, int] = defaultdict(int)
    granted: set[str] = set()
    charged = 0
    for kind, reservation, rollouts in entries:
        charged += UP.get(kind, 0) * rollouts
        if kind == "reserve":
            if reservation in granted:
                found.append(f"G3: {reservation} was granted twice")
            if limit is not None and charged > limit:
                found.append(f"G1: {charged} rollouts of {limit} after {reservation}")
            granted.add(reservation)
            held[reservation] += rollouts
        elif kind in {"commit", "release", "expire"}:
            held[reservation] -= rollouts
            if held[reservation] < 0:
                found.append(f"G6: {reservation} gave what it did not hold")
    return found
