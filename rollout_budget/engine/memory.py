"""Storage in this process's memory: the model that every other store is tested against.

All tables are persistent maps, so a transaction that raises is undone by going back to what was referenced before it.
Transactions run one after another. Gone when the process ends.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from rollout_budget.engine.ports import Evidence, PolicyOwner
from rollout_budget.engine.records import GroupKey, GroupRecord, PlanRecord, RunRecord
from rollout_budget.errors import NotFound
from rollout_budget.ledger.maps import Map
from rollout_budget.ledger.memory import Clock, MemoryLedger

RunKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything but the ledger. `open` and `latest` are indices: keys not closed, and the highest attempt of an id."""

    runs: Map[RunKey, RunRecord] = field(default_factory=Map)
    groups: Map[tuple[RunKey, GroupKey], GroupRecord] = field(default_factory=Map)
    latest: Map[tuple[RunKey, str], GroupKey] = field(default_factory=Map)
    open: Map[RunKey, dict[GroupKey, None]] = field(default_factory=Map)
    plans: Map[RunKey, dict[str, PlanRecord]] = field(default_factory=Map)
    outbox: Map[str, Evidence] = field(default_factory=Map)


class MemoryTransaction:
    """Obeys `Transaction`."""

    def __init__(self, tables: Tables, ledger: MemoryLedger) -> None:
        self.tables = tables
        self._ledger = ledger

    @property
    def ledger(self) -> MemoryLedger:
        """See `Transaction`."""
        return self._ledger

    async def add_run(self, record: RunRecord) -> RunRecord:
        """See `Transaction`."""
        stored = self.tables.runs.get((record.team, record.spec.run_id))
        if stored is None:
            await self.save_run(record)
        return stored or record

    async def run(self, team: str, run_id: str, *, lock: bool = False) -> RunRecord:
        """See `Transaction`."""
        del lock  # transactions exclude each other altogether
        record = self.tables.runs.get((team, run_id))
        if record is None:
            raise NotFound(f"no run {run_id!r}")
        return replace(record, moment=self._ledger.now())

    async def save_run(self, record: RunRecord) -> None:
        """See `Transaction`."""
        key = (record.team, record.spec.run_id)
        self.tables = replace(self.tables, runs=self.tables.runs.updated({key: record}))

    async def groups(self, team: str, run_id: str, keys: Sequence[GroupKey]) -> dict[GroupKey, GroupRecord]:
        """See `Transaction`."""
        found = {key: self.tables.groups.get(((team, run_id), key)) for key in keys}
        return {key: record for key, record in found.items() if record is not None}

    async def latest_groups(self, team: str, run_id: str, group_ids: Sequence[str]) -> dict[str, GroupRecord]:
        """See `Transaction`."""
        run = (team, run_id)
        found = {group_id: self.tables.latest.get((run, group_id)) for group_id in group_ids}
        return {group_id: self.tables.groups[run, key] for group_id, key in found.items() if key is not None}

    async def open_groups(self, team: str, run_id: str) -> list[GroupRecord]:
        """See `Transaction`."""
        run = (team, run_id)
        return [self.tables.groups[run, key] for key in self.tables.open.get(run, {})]

    async def save_groups(self, team: str, run_id: str, records: Sequence[GroupRecord]) -> None:
        """See `Transaction`."""
        run, tables = (team, run_id), self.tables
        latest: dict[tuple[RunKey, str], GroupKey] = {}
        for key in (record.key for record in records):
            newest = latest.get((run, key.group_id)) or tables.latest.get((run, key.group_id))
            if newest is None or key.attempt > newest.attempt:
                latest[run, key.group_id] = key
        closed = {record.key for record in records if record.closed is not None}
        still_open = {**tables.open.get(run, {}), **{record.key: None for record in records}}
        self.tables = replace(
            tables,
            groups=tables.groups.updated({(run, record.key): record for record in records}),
            latest=tables.latest.updated(latest),
            open=tables.open.updated({run: {key: None for key in still_open if key not in closed}}),
        )

    async def plans(self, team: str, run_id: str, plan_ids: Sequence[str]) -> dict[str, PlanRecord]:
        """See `Transaction`."""
        kept = self.tables.plans.get((team, run_id), {})
        return {plan_id: kept[plan_id] for plan_id in plan_ids if plan_id in kept}

    async def add_plan(self, team: str, run_id: str, record: PlanRecord, keep: int) -> None:
        """See `Transaction`."""
        run = (team, run_id)
        kept = [*self.tables.plans.get(run, {}).values(), record][-keep:]
        plans = self.tables.plans.updated({run: {plan.plan_id: plan for plan in kept}})
        self.tables = replace(self.tables, plans=plans)

    async def drop_plans(self, team: str, run_id: str) -> None:
        """See `Transaction`."""
        self.tables = replace(self.tables, plans=self.tables.plans.without({(team, run_id)}))

    async def queue_evidence(self, evidence: Sequence[Evidence]) -> None:
        """See `Transaction`."""
        fresh = {item.id: item for item in evidence if item.id not in self.tables.outbox}
        self.tables = replace(self.tables, outbox=self.tables.outbox.updated(fresh))

    async def pending_evidence(self, most: int, without: Collection[PolicyOwner] = ()) -> list[Evidence]:
        """See `Transaction`."""
        waiting = (item for item in self.tables.outbox.values() if item.owner not in without)
        return list(itertools.islice(waiting, most))

    async def evidence_delivered(self, ids: Sequence[str]) -> None:
        """See `Transaction`."""
        self.tables = replace(self.tables, outbox=self.tables.outbox.without(set(ids)))


class MemoryStore:
    """Obeys `Store`.

    Nothing in it ever waits but for another transaction, so one task alone can drive it without an event loop.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._tables = Tables()
        self._ledger = MemoryLedger(clock)
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self, team: str | None = None) -> AsyncIterator[MemoryTransaction]:
        """See `Store`."""
        del team  # one process, one memory: there is no second wall to put up
        async with self._lock:
            savepoint = self._ledger.savepoint()
            transaction = MemoryTransaction(self._tables, self._ledger)
            try:
                yield transaction
            except BaseException:
                self._ledger.rollback(savepoint)
                raise
            self._tables = transaction.tables
