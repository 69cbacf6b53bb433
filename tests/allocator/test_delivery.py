"""Evidence leaves one outbox by several processes: each row once in effect, and none is lost with a process."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from rollout_budget.engine import Engine, HistoryPrior
from rollout_budget.engine.ports import Evidence
from rollout_budget.errors import Unavailable
from rollout_budget.wire import EvidenceRow
from services.allocator.database.store import SqlStore
from services.allocator.database.turns import EVIDENCE, turn
from services.kit.database import connect
from services.kit.session import Database
from tests.allocator.databases import fresh_postgres, fresh_sqlite

POLICIES = ("p", "q", "r")
ROWS = [
    Evidence(
        f"{policy}{index}",
        "team",
        policy,
        EvidenceRow(id=f"{policy}{index}", key="k", version=0, successes=1, trials=2),
    )
    for policy in POLICIES
    for index in range(20)
]


class Recorder(HistoryPrior):
    """Counts how often each row arrives; lets every other task run in between."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: Counter[str] = Counter()

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        self.arrived.update(row.id for row in rows)
        await super().add_evidence(team, policy, rows)
        for _ in range(50):
            await asyncio.sleep(0)


class Process:
    """What of an allocator's process carries evidence."""

    def __init__(self, url: str, priors: HistoryPrior) -> None:
        self.database = Database(connect(url))
        self.store = SqlStore(self.database)
        self._engine = Engine(self.store, priors)

    async def deliver(self) -> int | None:
        """Do one round; None where another process is in one."""
        async with turn(self.database.engine, EVIDENCE) as ours:
            return await self._engine.deliver_evidence() if ours else None

    async def waiting(self) -> int:
        async with self.store.transaction() as transaction:
            return len(await transaction.pending_evidence(len(ROWS) + 1))


@asynccontextmanager
async def processes(url: str, priors: HistoryPrior, count: int) -> AsyncIterator[list[Process]]:
    """Make some on one database, whose outbox is full."""
    made = [Process(url, priors) for _ in range(count)]
    async with made[0].store.transaction() as transaction:
        await transaction.queue_evidence(ROWS)
    yield made
    for one in made:
        await one.database.engine.dispose()


@pytest.mark.postgres
async def test_processes_that_deliver_at_once_send_each_row_once() -> None:
    """One has the turn, the others pass at once; the next round may be anybody's."""
    priors = Recorder()
    async with processes(fresh_postgres(), priors, 4) as several:
        sent = await asyncio.gather(*(one.deliver() for one in several))
        assert sorted(sent, key=str) == [len(ROWS), None, None, None]
        assert priors.arrived == Counter(row.id for row in ROWS)
        assert await several[0].waiting() == 0
        assert [await one.deliver() for one in several] == [0, 0, 0, 0]


@pytest.mark.postgres
async def test_a_deliverer_killed_in_the_middle_loses_no_row(tmp_path: Path) -> None:
    """`kill -9` after a batch arrived: until then nobody else sends; then all of it goes, and counts once by its ids."""
    url, file, priors = fresh_postgres(), tmp_path / "arrived", Recorder()
    async with processes(url, priors, 1) as (ours,):
        command = (sys.executable, "-m", "tests.allocator.carrier", url, str(file))
        other = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert other.stdout is not None
        assert await other.stdout.readline() == b"arrived\n"
        assert await ours.deliver() is None
        assert not priors.arrived
        before = file.read_text().split()
        assert 0 < len(before) < len(ROWS)
        other.kill()
        await other.wait()
        async with asyncio.timeout(60.0):
            while (sent := await ours.deliver()) is None:
                assert not priors.arrived  # the server has not read yet that the connection ended
        assert sent == len(ROWS)
        assert priors.arrived == Counter(row.id for row in ROWS)
        assert set(before) <= set(priors.arrived)  # twice, by the same ids
        assert await ours.waiting() == 0


@pytest.mark.postgres
async def test_a_lost_connection_ends_the_turn_and_a_failed_round_gives_it_back() -> None:
    """Whatever happens to a round, the next one comes; a database that is away is said to be."""
    async with processes(fresh_postgres(), HistoryPrior(), 2) as (one, other):
        with pytest.raises(ZeroDivisionError):
            async with turn(one.database.engine, EVIDENCE):
                raise ZeroDivisionError
        async with turn(one.database.engine, EVIDENCE) as ours:
            assert ours
            async with other.database.transaction() as connection:
                ended = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                assert (await connection.scalars(text(ended))).all() == [True]
            async with turn(other.database.engine, EVIDENCE) as theirs:
                assert theirs
        async with turn(one.database.engine, EVIDENCE) as again:
            assert again
    nowhere = connect("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable):
        async with turn(nowhere, EVIDENCE):
            pytest.fail("no turn without a database")


async def test_one_process_on_a_file_needs_no_turn(tmp_path: Path) -> None:
    """SQLite: delivered at once."""
    priors = Recorder()
    async with processes(fresh_sqlite(tmp_path), priors, 1) as (only,):
        assert await only.deliver() == len(ROWS)
    assert priors.arrived == Counter(row.id for row in ROWS)
