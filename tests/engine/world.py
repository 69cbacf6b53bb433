"""An engine in memory with everything around it under the test's control, and short ways to call it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from rollout_budget.engine import Engine, MemoryStore
from rollout_budget.engine.ports import Transaction
from rollout_budget.engine.records import GroupKey, GroupRecord, RunRecord
from rollout_budget.wire import (
    ClosedGroup,
    CloseGroup,
    CloseRequest,
    Decision,
    ObserveGroup,
    ObserveRequest,
    OpenAnswer,
    OpenGroup,
    OpenRequest,
    Run,
    RunSpec,
)
from tests.conformance.implementations import ManualClock, ScriptedPriors

TEAM, RUN = "team", "run"


class PowerCut(Exception):
    """A transaction, or the answer to it, was lost."""


@dataclass(slots=True)
class FaultyStore:
    """A memory store that loses transactions: before they commit, or after, when only the answer is lost.

    `faults` says for each transaction to come what happens to it; none are left once it is used up.
    """

    inner: MemoryStore
    faults: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def transaction(self, team: str | None = None) -> AsyncIterator[Transaction]:
        fault = self.faults.pop(0) if self.faults else "none"
        async with self.inner.transaction(team) as transaction:
            yield transaction
            if fault == "before commit":
                raise PowerCut
        if fault == "after commit":
            raise PowerCut


class Desk:
    """One team's run on an engine in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.priors = ScriptedPriors()
        self.store = FaultyStore(MemoryStore(self.clock))
        self.engine = Engine(self.store, self.priors)

    async def start(self, **settings: Any) -> Run:
        return await self.engine.create_run(
            TEAM, RunSpec.model_validate({"run_id": RUN, "policy": "p", "k_init": 4, **settings})
        )

    async def open(self, *groups: OpenGroup | str, lease_s: float = 1000.0) -> OpenAnswer:
        bodies = [OpenGroup(group_id=group, prompt_key=group) if isinstance(group, str) else group for group in groups]
        return await self.engine.open(TEAM, RUN, OpenRequest(groups=bodies, lease_s=lease_s))

    async def observe(self, **outcomes: Sequence[float]) -> list[Decision]:
        groups = [ObserveGroup(group_id=name, outcomes=list(values)) for name, values in outcomes.items()]
        return (await self.engine.observe(TEAM, RUN, ObserveRequest(groups=groups))).groups

    async def close(self, *groups: CloseGroup, **used: int) -> list[ClosedGroup]:
        bodies = [*groups, *(CloseGroup(group_id=name, used=count) for name, count in used.items())]
        return (await self.engine.close(TEAM, RUN, CloseRequest(groups=bodies))).groups

    async def run(self) -> RunRecord:
        """Return the run as it is stored."""
        async with self.store.inner.transaction() as transaction:
            return await transaction.run(TEAM, RUN)

    async def record(self, group_id: str) -> GroupRecord:
        """Return a group as it is stored."""
        key = GroupKey(group_id, 0)
        async with self.store.inner.transaction() as transaction:
            return (await transaction.groups(TEAM, RUN, [key]))[key]

    async def waiting(self) -> list[str]:
        """Return the prompt keys of evidence that waits for delivery."""
        async with self.store.inner.transaction() as transaction:
            return [item.row.key for item in await transaction.pending_evidence(1000)]

    async def in_balance(self) -> bool:
        """Whether the ledger's counters are the sum of its entries."""
        return await self.engine.audit() == []
