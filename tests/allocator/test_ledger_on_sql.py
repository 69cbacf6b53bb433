"""The ledger where only a real database can break it: many writers, lost projections, limits in every span."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import delete, event, select, text, update
from sqlalchemy.exc import DatabaseError

from rollout_budget.errors import NotFound, Unavailable
from rollout_budget.ledger.base import Account, Ask, Settlement
from rollout_budget.wire import RunLimits, TeamLimits
from services.allocator.database.store import SqlStore
from services.allocator.database.tables import accounts, entries
from services.kit import database, session
from services.kit.database import connect
from services.kit.session import Database
from tests.allocator.databases import fresh_postgres

WRITERS = 64
"""Concurrent tasks in the contention tests (G1)."""
PATIENCE_S = 30.0
"""How long a test waits for what must happen, before it fails."""


@asynccontextmanager
async def opened(url: str, **limits: int) -> AsyncIterator[tuple[SqlStore, list[Account]]]:
    """A store with four runs of one team whose total is limited."""
    engine = connect(url)
    store = SqlStore(Database(engine))
    runs = [Account("team", f"run-{index}") for index in range(4)]
    async with store.transaction() as transaction:
        await transaction.ledger.set_team_limits("team", TeamLimits(**limits))
        for run in runs:
            await transaction.ledger.open_account(run, RunLimits())
    yield store, runs
    await engine.dispose()


async def reserve(store: SqlStore, account: Account, *asks: Ask, lease_s: float = 60.0) -> list[int]:
    """Hold what fits, first asks first."""

    def share(left: int) -> list[int]:
        grants = []
        for ask in asks:
            grants.append(min(ask.rollouts, left))
            left -= grants[-1]
        return grants

    async with store.transaction() as transaction:
        return [one.rollouts for one in await transaction.ledger.reserve(account, asks, lease_s, share)]


async def no_discrepancy(store: SqlStore) -> None:
    async with store.transaction() as transaction:
        assert await transaction.ledger.audit() == []


async def test_g01_no_grant_takes_an_account_over_its_limit(any_database: str) -> None:
    """Sixty-four tasks reserve, settle and lower the limit on one budget row; no moment sees it overdrawn."""
    async with opened(any_database, rollouts=150) as (store, runs):

        async def trainer(index: int) -> int:
            granted = 0
            for round_ in range(2):
                ask = Ask(f"{index}-{round_}", 1 + (index + round_) % 5, step=round_)
                got = (await reserve(store, runs[index % 4], ask))[0]
                granted += got
                if got and round_ % 2:
                    async with store.transaction() as transaction:
                        await transaction.ledger.settle(runs[index % 4], [Settlement((ask.id,), got - 1)])
                    granted -= 1
            return granted

        async def watcher(stop: asyncio.Event) -> int:
            seen = 0
            while not stop.is_set():
                async with store.transaction() as transaction:
                    budget = await transaction.ledger.budget("team")
                assert budget.available is not None
                assert budget.available >= 0
                seen += 1
                await asyncio.sleep(0)
            return seen

        stop = asyncio.Event()
        watching = asyncio.create_task(watcher(stop))
        held = sum(await asyncio.gather(*(trainer(index) for index in range(WRITERS))))
        stop.set()
        assert await watching > 0
        async with store.transaction() as transaction:
            usage = (await transaction.ledger.budget("team")).usage
        assert usage.reserved + usage.committed == held
        assert held <= 150
        assert usage.refused > 0
        await no_discrepancy(store)


@pytest.mark.postgres
async def test_g01_several_processes_on_one_budget_row() -> None:
    """Four processes of eight tasks each share one limit on a real PostgreSQL; it is used up to the last rollout."""
    url = fresh_postgres()
    async with opened(url, rollouts=150) as (store, _):
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.allocator.hammer", url, str(index)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            for index in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        granted = [int(said) for said, _ in await asyncio.gather(*(process.communicate(b"") for process in processes))]
        assert [process.returncode for process in processes] == [0] * 4
        assert sum(granted) == 150
        assert sum(count > 0 for count in granted) > 1
        async with store.transaction() as transaction:
            budget = await transaction.ledger.budget("team")
        assert (budget.usage.reserved, budget.available) == (150, 0)
        await no_discrepancy(store)


async def test_g03_one_id_sent_by_many_at_once_has_one_effect(any_database: str) -> None:
    """The same batch from many tasks at once is held once, and all get the same answer."""
    async with opened(any_database, rollouts=100) as (store, runs):
        asks = [Ask("a", 3), Ask("b", 4)]
        answers = await asyncio.gather(*(reserve(store, runs[0], *asks) for _ in range(16)))
        assert answers == [[3, 4]] * 16
        async with store.transaction() as transaction:
            assert (await transaction.ledger.budget("team")).usage.granted == 7


async def test_g08_settling_and_expiring_at_once_has_one_winner(any_database: str) -> None:
    """A reservation that is due is either committed or expired, never both, whoever comes first."""
    async with opened(any_database, rollouts=64) as (store, runs):
        await reserve(store, runs[0], *(Ask(str(index), 1) for index in range(64)))
        store.clock_offset_s = lambda: 61.0

        async def settle(index: int) -> int:
            async with store.transaction() as transaction:
                return (await transaction.ledger.settle(runs[0], [Settlement((str(index),), 1)]))[0].committed

        async def expire() -> int:
            async with store.transaction() as transaction:
                return await transaction.ledger.expire(runs[0])

        outcomes = await asyncio.gather(*(settle(index) for index in range(32)), *(expire() for _ in range(4)))
        committed, expired = sum(outcomes[:32]), sum(outcomes[32:])
        assert committed + expired == 64
        async with store.transaction() as transaction:
            usage = (await transaction.ledger.budget("team")).usage
        assert (usage.committed, usage.expired, usage.overage) == (committed, expired, 32 - committed)
        assert usage.reserved == 0
        await no_discrepancy(store)


@pytest.mark.postgres
async def test_g08_who_settles_while_an_expiry_is_under_way_sees_its_end() -> None:
    """A settlement that arrives between the statement of an expiry and its commit finds nothing held: all is overage."""
    async with opened(fresh_postgres()) as (store, runs):
        await reserve(store, runs[0], Ask("a", 4))
        store.clock_offset_s = lambda: 61.0

        async def settle() -> tuple[int, int]:
            async with store.transaction() as transaction:
                settled = (await transaction.ledger.settle(runs[0], [Settlement(("a",), 4)]))[0]
                return settled.committed, settled.overage

        async with asyncio.timeout(PATIENCE_S):
            async with store.transaction() as transaction:
                assert await transaction.ledger.expire(runs[0]) == 4
                late = asyncio.create_task(settle())
                while not await _somebody_waits(store):
                    assert not late.done()
                    await asyncio.sleep(0.01)  # PostgreSQL has no signal for it
            assert await late == (0, 4)
        await no_discrepancy(store)


async def _somebody_waits(store: SqlStore) -> bool:
    """Whether a lock of this database is waited for."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with store._database.transaction() as connection:
        return bool(await connection.scalar(waiting))


async def test_g02_a_counter_that_lost_its_entries_stops_grants_until_mended(any_database: str) -> None:
    """The auditor names the counter, grants to that account stop, others go on, and mending resumes them."""
    async with opened(any_database, rollouts=100) as (store, runs):
        await reserve(store, runs[0], Ask("a", 5))
        broken = (accounts.c.run == runs[0].run) & (accounts.c.span == "total")
        async with store._database.transaction() as connection:
            await connection.execute(update(accounts).where(broken).values(reserved=4))
        async with store.transaction() as transaction:
            found = await transaction.ledger.audit()
        assert [(one.account, one.counter, one.counted, one.entries) for one in found] == [
            (runs[0], "total reserved", 4, 5)
        ]
        assert await reserve(store, runs[0], Ask("b", 1)) == [0]
        assert await reserve(store, runs[1], Ask("c", 1)) == [1]
        async with store._database.transaction() as connection:
            await connection.execute(update(accounts).where(broken).values(reserved=5))
        await no_discrepancy(store)
        assert await reserve(store, runs[0], Ask("d", 1)) == [1]


async def test_g02_entries_are_append_only(any_database: str) -> None:
    """The database itself refuses to change or delete one."""
    async with opened(any_database) as (store, runs):
        await reserve(store, runs[0], Ask("a", 5))
        for statement in (update(entries).values(rollouts=1), delete(entries)):
            with pytest.raises(DatabaseError, match="append-only"):
                async with store._database.transaction() as connection:
                    await connection.execute(statement)


async def test_a_batch_costs_a_fixed_number_of_statements(any_database: str) -> None:
    """Five hundred and twelve groups take as many statements as two, to hold and to settle."""
    async with opened(any_database, rollouts=10_000) as (store, runs):
        counted = 0

        def count(*_: object) -> None:
            nonlocal counted
            counted += 1

        event.listen(store._database.engine.sync_engine, "before_cursor_execute", count)
        used = []
        await reserve(store, runs[0], Ask("warm", 1, step=0))
        for size in (2, 512):
            before = counted
            ids = [f"{size}-{index}" for index in range(size)]
            await reserve(store, runs[0], *(Ask(one, 4, step=0) for one in ids))
            async with store.transaction() as transaction:
                await transaction.ledger.settle(runs[0], [Settlement((one,), 3) for one in ids])
            used.append(counted - before)
        assert used[0] == used[1] <= 20


async def test_g12_a_wait_for_a_lock_is_bounded(any_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that cannot have the row in time gives up with an error that may be retried, and stores nothing."""
    monkeypatch.setattr(session, "TURN_TIMEOUT_S", 0.05)
    monkeypatch.setattr(database, "LOCK_TIMEOUT_MS", 50)
    async with opened(any_database) as (store, runs), asyncio.timeout(PATIENCE_S):
        async with store.transaction() as transaction:
            await transaction.ledger.reserve(runs[0], [Ask("a", 1)], 60.0, lambda _left: [0])
            with pytest.raises(Unavailable):
                await reserve(store, runs[1], Ask("b", 1))
        async with store.transaction() as transaction:
            with pytest.raises(NotFound):
                await transaction.ledger.reservation("team", "b")


@pytest.mark.postgres
async def test_g12_random_batches_of_many_teams_never_lock_each_other_out() -> None:
    """Grants, settlements, renewals, sweeps and audits of three teams at once, steps and runs at random: no deadlock.

    PostgreSQL counts the deadlocks it broke; a wait that is too long is `Unavailable`, and nothing else is ever raised.
    """
    url = fresh_postgres()
    engine = connect(url)
    store = SqlStore(Database(engine))
    runs = [Account(f"team-{place % 3}", f"run-{place // 3}") for place in range(9)]
    async with store.transaction() as transaction:
        for team in ("team-0", "team-1", "team-2"):
            await transaction.ledger.set_team_limits(team, TeamLimits(rollouts=200, tokens=5_000))
        for run in runs:
            await transaction.ledger.open_account(run, RunLimits(rollouts_per_step=40, tokens_per_rollout=10))

    async def deadlocks() -> int:
        async with engine.connect() as connection:
            counted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            return int((await connection.exec_driver_sql(counted)).scalar_one())

    async def worker(seed: int) -> int:
        dice, late = random.Random(seed), 0  # noqa: S311  a test's dice
        for turn in range(12):
            run = dice.choice(runs)
            asks = [Ask(f"{seed}-{turn}-{place}", dice.randint(1, 9), turn % 4) for place in range(dice.randint(1, 6))]
            try:
                await reserve(store, run, *asks)
                async with store.transaction() as transaction:
                    ledger = transaction.ledger
                    settled = [Settlement((ask.id,), dice.randint(0, 9), tokens=50) for ask in asks]
                    await ledger.settle(run, dice.sample(settled, len(settled)))
                    await ledger.renew(run, 60.0)
                    if dice.random() < 0.2:
                        await ledger.expire()
                if dice.random() < 0.1:
                    await no_discrepancy(store)
            except Unavailable:
                late += 1
        return late

    before = await deadlocks()
    late = sum(await asyncio.gather(*(worker(seed) for seed in range(8))))
    assert late < 8 * 12
    assert await deadlocks() == before
    await no_discrepancy(store)
    await engine.dispose()


async def test_limits_of_day_and_month_begin_anew(any_database: str) -> None:
    """What was used yesterday does not count today, and the clock is the database's."""
    async with opened(any_database, rollouts_per_day=5, rollouts_per_month=1_000) as (store, runs):
        assert await reserve(store, runs[0], Ask("a", 4), Ask("b", 4), lease_s=90_000.0) == [4, 1]
        store.clock_offset_s = lambda: 86_400.0
        assert await reserve(store, runs[0], Ask("c", 6)) == [5]
        async with store._database.transaction() as connection:
            rows = (await connection.execute(select(accounts).where(accounts.c.span.startswith("day:")))).all()
        assert sorted(row.reserved for row in rows) == [0, 5, 5]


async def test_ids_of_any_length_and_script_are_kept_whole(any_database: str) -> None:
    """A reservation id longer than an index entry of PostgreSQL is found by its digest."""
    async with opened(any_database) as (store, runs):
        long = "学" * 2_000
        assert await reserve(store, runs[0], Ask(long, 1), Ask(long + "x", 2)) == [1, 2]
        async with store.transaction() as transaction:
            assert (await transaction.ledger.reservation("team", long)).rollouts == 1
