"""The parts of a running allocator, put together once: database, ledger, engine, keys, background work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from rollout_budget.client import PriorClient, Retries
from rollout_budget.engine import Engine
from rollout_budget.engine.ports import PriorSource
from rollout_budget.ledger.base import Account
from rollout_budget.ledger.books import day_of
from rollout_budget.wire import KeyCreate, TeamCreate
from services.allocator.auditing import Auditor
from services.allocator.auth import Door
from services.allocator.booking import booked
from services.allocator.database import migrate, standing
from services.allocator.database.directory import Directory
from services.allocator.database.histories import SqlHistories
from services.allocator.database.ledger import SqlLedger
from services.allocator.database.reports import Reports
from services.allocator.database.store import SqlStore, SqlTransaction
from services.allocator.database.turns import EVIDENCE, turn
from services.allocator.database.wall import Wall
from services.allocator.identity import SERVICE, Identity
from services.allocator.metrics import MAX_RUNS, Metrics
from services.allocator.priors import EVIDENCE_DEADLINE_S, RemotePriors
from services.allocator.settings import Settings
from services.allocator.workers import Worker
from services.kit import logs
from services.kit.database import connect
from services.kit.keys import ensure_file
from services.kit.offload import Thread
from services.kit.session import Database

LOGGED_DISCREPANCIES = 20
"""Counters named in the log by one audit: of further ones the metric says how many."""
DEFAULT_TEAM = "default"
"""The team of the embedded mode: what a single user of one machine needs."""
GATHER_S = 0.1
"""Time in which closed groups are gathered before their evidence is carried away: a round for each close would cost more
than the close."""
CHECKPOINT_EVERY_S = 1.0
"""Pause between two checkpoints of a SQLite file, so that no commit has to make one."""

_log = structlog.get_logger(__name__)


class Service:
    """Everything that the routes use, as `app.state.service`. Use `running` to start and stop it."""

    def __init__(self, settings: Settings, metrics: Metrics, priors: PriorSource | None = None) -> None:
        self.settings = settings
        self.metrics = metrics
        self.database = Database(connect(settings.url))
        self.store = SqlStore(self.database, self._committed, wall=Wall(metrics.second_wall))
        self._auditor = Auditor(self.database)
        self._differing: set[tuple[Account, str]] = set()
        self._given_priors = priors

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the database and the door, work in the background, and let go of everything at the end."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.database.engine.dispose)
            await self._open()
            priors = self._given_priors or await self._priors(stack)
            compute = Thread()
            stack.callback(compute.close)
            self.engine = Engine(self.store, priors, compute)
            every_s = self.settings.deliver_every_s
            self.delivery = Worker("evidence", self.deliver, every_s, gather_s=min(GATHER_S, every_s))
            workers = [
                self.delivery,
                Worker("audit", self.audit, self.settings.audit_every_s),
                Worker("gauges", self._read_budgets, self.settings.gauges_every_s),
            ]
            if self.database.engine.dialect.name == "sqlite":
                workers.append(Worker("checkpoint", self.database.checkpoint, CHECKPOINT_EVERY_S))
            for worker in workers:
                worker.start()
            try:
                yield
            finally:
                await asyncio.gather(*(worker.stop() for worker in workers))

    async def missing(self) -> str | None:
        """Return why the service is not ready, None if it is."""
        async with self.database.snapshot() as connection:
            return None if await migrate.is_current(connection) else "the database is not at the newest migration"

    @asynccontextmanager
    async def directory(self, actor: Identity = SERVICE) -> AsyncIterator[Directory]:
        """Enter a transaction on teams and keys, whose changes are logged in the name of `actor`."""
        async with self.database.transaction() as connection:
            ledger = SqlLedger(connection, self.store.clock_offset_s())
            yield Directory(connection, self._pepper, actor, ledger)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Directory]:
        """Enter a transaction on teams and keys that only reads: it waits for no writer and keeps none waiting."""
        async with self.database.snapshot() as connection:
            yield Directory(connection, self._pepper, ledger=SqlLedger(connection, self.store.clock_offset_s()))

    async def audit(self) -> int:
        """Compare all counters with what was booked; return how many differ. Each is counted by the round that finds it."""
        found = await self._auditor.round()
        differing = {(one.account, one.counter) for one in found}
        self.metrics.violations.inc(len(differing - self._differing))
        self._differing = differing
        for one in found[:LOGGED_DISCREPANCIES]:
            team, run = one.account.team, one.account.run
            _log.error(
                "a counter differs from its entries; its account is granted nothing",
                team=team, run=run, counter=one.counter, counted=one.counted, entries=one.entries,
            )  # fmt: skip
        return len(found)

    async def deliver(self) -> int:
        """Carry waiting evidence to the prior source; return how many rows went, 0 while another process does it."""
        async with turn(self.database.engine, EVIDENCE) as ours:
            return await self.engine.deliver_evidence() if ours else 0

    async def _open(self) -> None:
        settings = self.settings
        if settings.mode == "embedded":
            await migrate.upgrade(self.database.engine)
        admin_key, self._pepper = self._secret("admin_key", "admin.key"), self._secret("pepper", "pepper")
        self.door = Door(self.database, self._pepper, admin_key)
        if settings.mode == "embedded":
            token = ensure_file(settings.data / "team.key")
            async with self.directory() as directory:
                await directory.add_team(TeamCreate(team=DEFAULT_TEAM))
                await directory.ensure_key(KeyCreate(team=DEFAULT_TEAM, label="embedded mode"), token)

    def _secret(self, name: str, file: str) -> str:
        secret = getattr(self.settings, name)
        return ensure_file(self.settings.data / file) if secret is None else str(secret.get_secret_value())

    async def _priors(self, stack: AsyncExitStack) -> PriorSource:
        settings = self.settings
        if settings.prior_url is None or settings.prior_key is None:
            return SqlHistories(self.store)
        key, deadline_s = settings.prior_key.get_secret_value(), settings.prior_deadline_s
        timeout = max(deadline_s, EVIDENCE_DEADLINE_S)  # the deadline of each kind of call ends it earlier
        client = PriorClient(settings.prior_url, key, timeout=timeout, retries=Retries(attempts=1))
        await stack.enter_async_context(client)
        return RemotePriors(client, deadline_s=deadline_s, refused=self.metrics.evidence_refused.inc)

    async def _read_budgets(self) -> None:
        async with self.database.snapshot() as connection:
            ledger = SqlLedger(connection, self.store.clock_offset_s())
            near = await standing.nearest(
                connection, day_of(await Reports(connection, self.store.clock_offset_s()).now()), MAX_RUNS
            )
            rows = await ledger.usage(None, ["team"])
            teams = list(dict.fromkeys([*near, *(row.team for row in rows if row.team is not None)]))
            views = [await ledger.budget(team) for team in teams[:MAX_RUNS]]
            found = await standing.read(connection, MAX_RUNS)
        self.metrics.budgets(views)
        self.metrics.standing(found)

    def _committed(self, transaction: SqlTransaction) -> None:
        self.metrics.committed(transaction)
        if self.settings.logs_requests:
            logs.about(**booked(transaction.ledger))
        if transaction.queued:
            self.delivery.wake()
