"""Storage of runs, groups and waiting evidence, and the ledger with them, in one database transaction per request.

Owns the engine's `Store` and `Transaction` ports on SQLite and PostgreSQL. Nothing in here commits but the block of
`SqlStore.transaction`, once; only then is `committed` told what happened.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache

from pydantic import TypeAdapter
from sqlalchemy import Double, and_, bindparam, delete, func, select, true, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.engine.ports import Evidence, PolicyOwner
from rollout_budget.engine.records import GroupKey, GroupRecord, PlanRecord, RunRecord
from rollout_budget.errors import NotFound
from rollout_budget.pacing import Pacing
from rollout_budget.reliability import Reliability
from rollout_budget.wire import EvidenceRow, RunLimits, RunSpec
from services.allocator.database.clock import now_s
from services.allocator.database.ledger import SqlLedger
from services.allocator.database.remembered import Remembered
from services.allocator.database.restores import withheld
from services.allocator.database.tables import groups, outbox, plans, runs
from services.allocator.database.wall import Wall
from services.kit.rows import Listed, among, each_of, write
from services.kit.session import Database, chunks, insert

FIRST_LIMITS = frozenset({"rollouts", "rollouts_per_step"})
"""A run's limits in the first release; later ones are stored where they are set, as that release refuses unknown ones."""
_GROUP = TypeAdapter(GroupRecord)
_PLAN = TypeAdapter(PlanRecord)
_RECORDS = Remembered(_GROUP.validate_json, most_chars=6_000_000)
"""Groups of some steps: what `open` writes, `observe` and `close` read next. At 16 rollouts a group some 5,000 of them in 40 MB."""
_GROUP_COLUMNS = ("team", "run", "group_id", "attempt", "closed", "record")
_IDS = bindparam("in_ids", type_=Listed())

_CLOCK = (withheld(bindparam("offset_s", type_=Double)).label("withheld"), now_s().label("moment"))
_THIS_RUN = and_(runs.c.team == bindparam("in_team"), runs.c.run == bindparam("in_run"))
RUN = select(runs, *_CLOCK).where(_THIS_RUN)
LOCKED_RUN = select(select(runs).where(_THIS_RUN).with_for_update().subquery(), *_CLOCK)
"""The clock is read once the lock is held: beside the rows it would be that of before the wait."""
SAVED_RUN = (
    update(runs)
    .where(_THIS_RUN)
    .values({name: bindparam(name) for name in ("spec", "reliability", "finished", "fingerprint", "pacing")})
)
_OF_RUN = and_(groups.c.team == bindparam("in_team"), groups.c.run == bindparam("in_run"))
GROUPS = each_of([groups.c.group_id, groups.c.attempt, groups.c.record], _OF_RUN, groups.c.group_id, _IDS)
LATEST = (
    select(groups.c.group_id, func.max(groups.c.attempt).label("attempt"))
    .where(_OF_RUN, among(groups.c.group_id, _IDS))
    .group_by(groups.c.group_id)
)
DELIVERED = delete(outbox).where(among(outbox.c.evidence_id, _IDS))
"""Statements of the hot path are made once: to put one together takes longer than to run it."""
_PACING = TypeAdapter(Pacing)


class SqlTransaction:
    """One open database transaction. Every method names the team: there is no way to another team's rows (G14).

    Attributes:
        waits: what was waited for, and how many seconds.
        opened: groups stored for the first time: team, run, how many.
        closed: groups that were open before: team, run, the group as it was closed.
    """

    def __init__(self, connection: AsyncConnection, ledger: SqlLedger, clock_offset_s: float = 0.0) -> None:
        self._offset_s = clock_offset_s
        self._connection = connection
        self._ledger = ledger
        self.waits: list[tuple[str, float]] = []
        self.opened: list[tuple[str, str, int]] = []
        self.closed: list[tuple[str, str, GroupRecord]] = []
        self._settled: set[GroupKey] = set()
        self._locked = False
        self._found: list[GroupKey] = []
        self._degraded: list[GroupKey] = []
        self._saved = 0
        self._queued = 0

    @property
    def connection(self) -> AsyncConnection:
        """The database transaction itself, for what shares its fate with this one."""
        return self._connection

    @property
    def ledger(self) -> SqlLedger:
        """The ledger inside this transaction."""
        return self._ledger

    @property
    def queued(self) -> bool:
        """Whether evidence was put into the outbox."""
        return self._queued > 0

    @property
    def replays(self) -> int:
        """Groups that a writing request named and left as they were: it was answered from what was stored."""
        return max(0, len(self._found) - self._saved) if self._locked else 0

    @property
    def opened_degraded(self) -> int:
        """Groups opened for the first time, without the prior source's full answer."""
        return len(set(self._degraded).difference(self._found)) if self._degraded else 0

    async def add_run(self, record: RunRecord) -> RunRecord:
        """Store a new run, or return the one that has this id already."""
        row = {"team": record.team, "run": record.spec.run_id, **_run_columns(record)}
        await self._connection.execute(insert(self._connection, runs).on_conflict_do_nothing(), row)
        return await self.run(record.team, record.spec.run_id, lock=True)

    async def run(self, team: str, run_id: str, *, lock: bool = False) -> RunRecord:
        """Return a run; with `lock`, no other transaction changes it until this one ends."""
        self._locked |= lock
        named = {"in_team": team, "in_run": run_id, "offset_s": self._offset_s}
        began = time.perf_counter()
        row = (await self._connection.execute(LOCKED_RUN if lock else RUN, named)).one_or_none()
        if lock:
            self.waits.append(("run", time.perf_counter() - began))
        if row is None:
            raise NotFound(f"no run {run_id!r}")
        reliability = _reliability(row.reliability)
        pacing = None if row.pacing is None else _PACING.validate_json(row.pacing)
        spec = _spec(row.spec)
        moment = float(row.moment) + self._offset_s
        return RunRecord(row.team, spec, reliability, row.finished, row.fingerprint, pacing, row.withheld, moment)

    async def save_run(self, record: RunRecord) -> None:
        """Store a changed run."""
        named = {"in_team": record.team, "in_run": record.spec.run_id}
        await self._connection.execute(SAVED_RUN, {**named, **_run_columns(record)})

    async def groups(self, team: str, run_id: str, keys: Sequence[GroupKey]) -> dict[GroupKey, GroupRecord]:
        """Return those of the groups that exist."""
        wanted, found = set(keys), {}
        named = {"in_team": team, "in_run": run_id, "in_ids": list({key.group_id for key in keys})}
        for row in await self._connection.execute(GROUPS[self._connection.dialect.name], named):
            key = GroupKey(row.group_id, row.attempt)
            if key in wanted:
                found[key] = _RECORDS.read(row.record)
        self._found += found
        self._settled |= {key for key, record in found.items() if record.closed is not None}
        return found

    async def latest_groups(self, team: str, run_id: str, group_ids: Sequence[str]) -> dict[str, GroupRecord]:
        """Return the highest attempt of each group id that exists."""
        named = {"in_team": team, "in_run": run_id, "in_ids": list(group_ids)}
        rows = await self._connection.execute(LATEST, named)
        latest = [GroupKey(row.group_id, row.attempt) for row in rows]
        return {key.group_id: record for key, record in (await self.groups(team, run_id, latest)).items()}

    async def open_groups(self, team: str, run_id: str) -> list[GroupRecord]:
        """Return all groups of a run that are not closed, in the order of their ids."""
        query = (
            select(groups.c.record)
            .where(groups.c.team == team, groups.c.run == run_id, groups.c.closed.is_(False))
            .order_by(groups.c.group_id, groups.c.attempt)
        )
        return [_RECORDS.read(text) for text in (await self._connection.execute(query)).scalars()]

    async def save_groups(self, team: str, run_id: str, records: Sequence[GroupRecord]) -> None:
        """Store new or changed groups."""
        if not records:
            return
        self._saved += len(records)
        known = set(self._found)
        new = sum(record.key not in known and record.closed is None for record in records)
        self.opened += [(team, run_id, new)] if new else []
        self.closed += [
            (team, run_id, one) for one in records if one.closed is not None and one.key not in self._settled
        ]
        self._degraded += [record.key for record in records if record.degraded and record.closed is None]
        rows = []
        for record in records:
            text = _GROUP.dump_json(record).decode()
            _RECORDS.keep(text, record)
            rows.append((team, run_id, record.key.group_id, record.key.attempt, record.closed is not None, text))
        await write(self._connection, groups, _GROUP_COLUMNS, rows, changed=("closed", "record"))

    async def plans(self, team: str, run_id: str, plan_ids: Sequence[str]) -> dict[str, PlanRecord]:
        """Return those of the plans that are kept."""
        found: dict[str, PlanRecord] = {}
        for some in chunks(plan_ids):
            query = select(plans.c.record).where(plans.c.team == team, plans.c.run == run_id, plans.c.plan_id.in_(some))
            records = [_PLAN.validate_json(text) for text in (await self._connection.execute(query)).scalars()]
            found |= {record.plan_id: record for record in records}
        return found

    async def add_plan(self, team: str, run_id: str, record: PlanRecord, keep: int) -> None:
        """Store a new plan; forget all but the `keep` newest of its run."""
        row = {"team": team, "run": run_id, "plan_id": record.plan_id, "record": _PLAN.dump_json(record).decode()}
        await self._connection.execute(insert(self._connection, plans), row)
        of_run = and_(plans.c.team == team, plans.c.run == run_id)
        newest = select(plans.c.entry_id).where(of_run).order_by(plans.c.entry_id.desc()).limit(keep)
        await self._connection.execute(delete(plans).where(of_run, plans.c.entry_id.not_in(newest)))

    async def drop_plans(self, team: str, run_id: str) -> None:
        """Forget all plans of a run."""
        await self._connection.execute(delete(plans).where(plans.c.team == team, plans.c.run == run_id))

    async def queue_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Put evidence into the outbox; an id that is there already is kept once."""
        if not evidence:
            return
        self._queued += len(evidence)
        rows = [(one.id, one.team, one.policy, one.row.model_dump_json()) for one in evidence]
        await write(self._connection, outbox, ("evidence_id", "team", "policy", "row"), rows, changed=())

    async def pending_evidence(self, most: int, without: Collection[PolicyOwner] = ()) -> list[Evidence]:
        """Return the oldest undelivered evidence of all owners but those `without`."""
        others = tuple_(outbox.c.team, outbox.c.policy).not_in(sorted(without)) if without else true()
        query = select(outbox).where(others).order_by(outbox.c.entry_id).limit(most)
        return [
            Evidence(row.evidence_id, row.team, row.policy, EvidenceRow.model_validate_json(row.row))
            for row in await self._connection.execute(query)
        ]

    async def evidence_delivered(self, ids: Sequence[str]) -> None:
        """Take delivered evidence out of the outbox."""
        await self._connection.execute(DELIVERED, {"in_ids": list(ids)})


class SqlStore:
    """Opens transactions on one database.

    Args:
        database: where everything lies.
        committed: told what a transaction did, after it committed; must not raise.
        clock_offset_s: added to the database's clock; tests let leases run out with it, without waiting.
        wall: keeps other teams' rows out of a transaction about one team.
    """

    def __init__(
        self,
        database: Database,
        committed: Callable[[SqlTransaction], None] = lambda _transaction: None,
        clock_offset_s: Callable[[], float] = lambda: 0.0,
        wall: Wall | None = None,
    ) -> None:
        self.clock_offset_s = clock_offset_s
        self._wall = wall or Wall()
        self._database = database
        self._committed = committed

    @asynccontextmanager
    async def transaction(self, team: str | None = None) -> AsyncIterator[SqlTransaction]:
        """Enter a transaction: commits at the end of the block, rolls back if the block raises.

        With a `team`, PostgreSQL shows and takes no other team's rows, whatever a statement forgets to ask for (G14).
        """
        began = time.perf_counter()
        async with self._database.transaction(short=True) as connection:
            waited_s = time.perf_counter() - began
            if team is not None:
                await self._wall.enter(connection, team)
            offset_s = self.clock_offset_s()
            transaction = SqlTransaction(connection, SqlLedger(connection, offset_s), offset_s)
            transaction.waits.append(("transaction", waited_s))
            yield transaction
            await transaction.ledger.flush()
        self._committed(transaction)

    @asynccontextmanager
    async def reading(self, team: str) -> AsyncIterator[AsyncConnection]:
        """Enter a transaction that only reads, and of this team alone, as `transaction`; it waits for no writer."""
        async with self._database.snapshot() as connection:
            await self._wall.enter(connection, team)
            yield connection


@lru_cache(maxsize=64)
def _reliability(text: str) -> Reliability:
    """Read what a run has learned. Kept by the text itself, so nothing stale is found; with it stays its fitted law."""
    return Reliability.from_dict(json.loads(text))


@lru_cache(maxsize=64)
def _spec(text: str) -> RunSpec:
    return RunSpec.model_validate_json(text)


def _run_columns(record: RunRecord) -> dict[str, object]:
    return {
        "spec": _spec_json(record.spec),
        "reliability": json.dumps(record.reliability.to_dict()),
        "finished": record.finished,
        "fingerprint": record.fingerprint,
        "pacing": None if record.pacing is None else _PACING.dump_json(record.pacing).decode(),
    }


def _spec_json(spec: RunSpec) -> str:
    """Return a spec that a release before this one reads too, as long as the run uses nothing that it does not know."""
    unset = {name for name in RunLimits.model_fields if name not in FIRST_LIMITS}
    unset -= set(spec.limits.model_dump(exclude_defaults=True))
    return spec.model_dump_json(exclude={"limits": unset})
