"""No transaction writes for two teams: the ledger may be cut along teams (see `docs/scale.md`).

Every statement of every transaction is watched while three teams and the background work use the whole service, on both
databases. Team names are marked, so that they are found wherever a statement carries one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, update

from rollout_budget.wire import TeamLimits
from services.allocator.database.tables import accounts
from tests.allocator.running import Running, running

MARK = re.compile(r"marked-team-[a-z]+")
TEAMS = ("marked-team-alpha", "marked-team-beta", "marked-team-gamma")
WRITES = ("INSERT", "UPDATE", "DELETE")
OPEN = {"groups": [{"group_id": name, "prompt_key": "k", "prior": {"value": 0.5}, "step": 1} for name in ("g", "h")]}


@dataclass
class Watch:
    """The teams that each transaction wrote for or locked; open ones by connection."""

    open: dict[int, set[str]] = field(default_factory=dict)
    found: list[frozenset[str]] = field(default_factory=list)

    @property
    def crossing(self) -> list[frozenset[str]]:
        return [teams for teams in self.found if len(teams) > 1]

    def saw(self, connection: Any, statement: str, parameters: Any) -> None:
        if statement.lstrip().upper().startswith(WRITES) or "FOR UPDATE" in statement:
            self.open.setdefault(id(connection), set()).update(MARK.findall(repr(parameters)))

    def ended(self, connection: Any) -> None:
        self.found.append(frozenset(self.open.pop(id(connection), set())))


@contextmanager
def watching(engine: Any) -> Iterator[Watch]:
    """Watch an engine's transactions."""
    watch = Watch()

    def before(connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        watch.saw(connection, statement, parameters)

    handlers: dict[str, Any] = {"before_cursor_execute": before, "commit": watch.ended, "rollback": watch.ended}
    for name, handler in handlers.items():
        event.listen(engine, name, handler)
    yield watch
    for name, handler in handlers.items():
        event.remove(engine, name, handler)


async def _use(allocator: Running, headers: dict[str, str]) -> None:
    """Call every route of a team that stores something, refusals and overage included."""

    async def send(path: str, body: object = None, method: str = "POST") -> None:
        answer = await allocator.http.request(method, f"/v1/{path}", json=body, headers=headers)
        assert answer.is_success, answer.text

    spec = {"run_id": "r", "policy": "p", "k_init": 2, "limits": {"rollouts": 6, "rollouts_per_step": 5}}
    await send("runs", spec)
    await send("runs/r", {"price": 1e-6}, "PATCH")
    candidates = [{"prompt_key": key, "prior": {"value": 0.5}} for key in ("a", "b")]
    await send("runs/r/plan", {"plan_id": "plan", "candidates": candidates, "rollouts": 4})
    await send("runs/r/groups/open", OPEN)
    await send("runs/r/groups/observe", {"groups": [{"group_id": "g", "outcomes": [0, 1]}]})
    await send("runs/r/heartbeat")
    await send("runs/r/groups/close", {"groups": [{"group_id": "g", "used": 9}]})
    await send("runs", {"run_id": "next", "policy": "p", "warm_start": "r"})
    await send("runs/r/finish")
    for path in ("budget", "usage", "runs/r", "runs/next"):
        await send(path, method="GET")


async def _in_the_background(allocator: Running) -> None:
    service = allocator.service
    await service.engine.deliver_evidence()
    await service.audit()


async def test_g14_no_transaction_writes_for_two_teams(any_database: str, tmp_path: Path) -> None:
    """Three teams use everything, leases run out in all of them, counters of all are audited: one team at a time."""
    async with running(tmp_path, any_database) as allocator:
        with watching(allocator.service.database.engine.sync_engine) as watch:
            for team in TEAMS:
                await _use(
                    allocator, await allocator.new_key(team, limits=TeamLimits(rollouts=50, rollouts_per_day=40))
                )
            late = {"groups": [{"group_id": f"late-{index}", "prompt_key": "k"} for index in range(3)]}
            for team in TEAMS:
                headers = await allocator.new_key(team, limits=TeamLimits(rollouts=50, rollouts_per_day=40))
                await allocator.http.post("/v1/runs/next/groups/open", json=late, headers=headers)
            allocator.service.store.clock_offset_s = lambda: 10_000.0
            for team in TEAMS[:2]:
                async with allocator.service.database.transaction() as connection:
                    await connection.execute(update(accounts).where(accounts.c.team == team).values(overage=77))
            await _in_the_background(allocator)
        assert set().union(*watch.found) == set(TEAMS)
        assert watch.crossing == []


async def test_a_transaction_that_writes_for_two_teams_would_be_seen(any_database: str, tmp_path: Path) -> None:
    """Both kinds: two statements, and one statement with many rows."""
    async with running(tmp_path, any_database) as allocator:
        database = allocator.service.database
        with watching(database.engine.sync_engine) as watch:
            async with database.transaction() as connection:
                for team in TEAMS[:2]:
                    await connection.execute(update(accounts).where(accounts.c.team == team).values(overage=1))
        assert watch.crossing == [frozenset(TEAMS[:2])]


@pytest.mark.parametrize("read", ["SELECT 1", "BEGIN IMMEDIATE"])
def test_reading_for_two_teams_is_not_writing(read: str) -> None:
    """A report over all teams (gauges) reads one state and changes nothing."""
    watch = Watch()
    watch.saw(0, read, TEAMS)
    watch.ended(0)
    assert watch.crossing == []
