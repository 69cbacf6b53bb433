"""Lost answers and kills at named points, with real processes on real databases (G9, G10, G22).

The points: a request that never arrives or arrives in half, or twice; an answer that is dropped, cut or never sent
(`HttpProxy`); a service killed when it has committed and not answered; a service, or PostgreSQL, killed when a COMMIT is
on its way, and PostgreSQL killed when it has committed and nobody knows (`CommitProxy`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import chain, repeat
from pathlib import Path

import httpx
import pytest

from rollout_budget.client import AllocatorClient, Retries
from rollout_budget.errors import OutcomeUnknown, Unavailable
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    RunSpec,
)
from tests.allocator.databases import fresh_postgres, fresh_sqlite, migrated
from tests.faults.machines import OwnPostgres, ServiceProcess
from tests.faults.proxy import CommitProxy, Fault, HttpProxy
from tests.faults.workload import Drawn, Trainer, violations

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

SPEC = RunSpec(run_id="r", policy="p", prior_model="history", k_init=4, k_max=8, price=0.0)
OPEN = OpenRequest(groups=[OpenGroup(group_id=name, prompt_key=name) for name in "ab"])
OBSERVE = ObserveRequest(groups=[ObserveGroup(group_id=name, outcomes=[1.0, 0.0, 0.0, 1.0]) for name in "ab"])
CLOSE = CloseRequest(groups=[CloseGroup(group_id="a", used=4), CloseGroup(group_id="b", used=6)])
PATIENT = Retries(attempts=1_000, timeout_s=300.0, wait_initial_s=0.1, wait_max_s=1.0, wait_jitter_s=0.05)
"""Outlasts a service and a PostgreSQL that start again on busy cores."""
STALLED_S = 4.0
"""When an answer is given up: soon, as some never come, and later than busy cores delay one that does."""
ONCE = Retries(attempts=1)
ANSWERED_S = 60.0
"""Longest wait where every answer comes and none is asked for twice."""
BOOKED = Drawn(Counter({"r/a/0": 4, "r/b/0": 6}))
FAULTS = [fault for fault in Fault if fault is not Fault.NONE]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    return fresh_sqlite(tmp_path) if request.param == "sqlite" else fresh_postgres()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[OwnPostgres]:
    """A PostgreSQL that a test may kill."""
    with OwnPostgres() as server:
        yield server


@asynccontextmanager
async def client(
    proxy: HttpProxy, service: ServiceProcess, retries: Retries = PATIENT
) -> AsyncIterator[AllocatorClient]:
    timeout = httpx.Timeout(ANSWERED_S if retries is ONCE else STALLED_S)
    async with AllocatorClient(proxy.url, service.token, retries=retries, timeout=timeout) as made:
        yield made


async def whole_group(allocator: AllocatorClient) -> None:
    """Declare, open, observe, close; the answers are those of an undisturbed service."""
    await allocator.create_run(SPEC)
    opened = await allocator.open("r", OPEN)
    assert [group.grant for group in opened.groups] == [4, 4]
    decided = await allocator.observe("r", OBSERVE)
    assert [decision.more for decision in decided.groups] == [4, 4]
    closed = (await allocator.close("r", CLOSE)).groups
    assert [(line.committed, line.released, line.overage) for line in closed] == [(4, 4, 0), (6, 2, 0)]


async def test_g10_every_fault_of_every_call_takes_effect_once(url: str, tmp_path: Path) -> None:
    """Each call of a group's life meets every fault in turn, and is tried again until it is answered."""
    async with ServiceProcess(tmp_path, url) as service, HttpProxy([service.port]) as proxy:
        coming = chain((*FAULTS, Fault.NONE) * 4, repeat(Fault.NONE))
        proxy.choose = lambda _: next(coming)
        async with client(proxy, service) as allocator:
            await whole_group(allocator)
        assert {fault for fault in FAULTS if proxy.seen[fault]} == set(FAULTS)
    assert await violations(url, BOOKED) == []


@pytest.mark.parametrize("call", ["runs", "open", "observe", "close"])
async def test_g09_g10_a_service_killed_between_commit_and_answer(url: str, tmp_path: Path, call: str) -> None:
    """SIGKILL in the moment in which the answer has left the service and reached nobody; then a restart."""
    async with ServiceProcess(tmp_path, url) as service, HttpProxy([service.port]) as proxy:
        killed: list[str] = []

        async def kill(line: str) -> None:
            if not killed and line.split()[1].endswith(call):
                killed.append(line)
                await service.kill()
                await service.start()
                raise ConnectionResetError

        proxy.answered = kill
        async with client(proxy, service) as allocator:
            await whole_group(allocator)
        assert killed
    assert await violations(url, BOOKED) == []


@pytest.mark.postgres
@pytest.mark.parametrize("call", ["open", "close"])
@pytest.mark.parametrize("point", ["service before commit", "postgres before commit", "postgres after commit"])
async def test_g09_killed_at_the_commit(own_postgres: OwnPostgres, tmp_path: Path, call: str, point: str) -> None:
    """The service or PostgreSQL dies when COMMIT is on its way, or PostgreSQL when it has done it and nobody knows."""
    name = own_postgres.new_database()
    migrated(own_postgres.url(name))
    async with CommitProxy(own_postgres.socket_path) as commits:
        service = ServiceProcess(tmp_path, own_postgres.url(name, commits.port))
        reached = asyncio.Event()

        async def strike() -> None:
            if point.startswith("service"):
                await service.kill()
                await service.start()
            else:
                await asyncio.to_thread(own_postgres.kill)
                await asyncio.to_thread(own_postgres.start)

        async def die() -> None:
            reached.set()
            await asyncio.shield(asyncio.ensure_future(strike()))  # the connection may end before the restart does
            raise ConnectionResetError

        async with service, HttpProxy([service.port]) as proxy, client(proxy, service) as allocator:

            def choose(line: str) -> Fault:
                if not reached.is_set() and line.split()[1].endswith(call):
                    commits.armed = True
                return Fault.NONE

            proxy.choose = choose
            commits.commit, commits.committed = (None, die) if point.endswith("after commit") else (die, None)
            await whole_group(allocator)
        assert reached.is_set()
    assert await violations(own_postgres.url(name), BOOKED) == []


@pytest.mark.postgres
async def test_g09_what_may_be_stored_is_not_called_undone(own_postgres: OwnPostgres, tmp_path: Path) -> None:
    """When the answer to COMMIT is lost the client hears that the outcome is unknown, else that nothing happened."""
    name = own_postgres.new_database()
    migrated(own_postgres.url(name))

    async def cut() -> None:
        raise ConnectionResetError

    async with CommitProxy(own_postgres.socket_path) as commits:
        service = ServiceProcess(tmp_path, own_postgres.url(name, commits.port))
        async with service, HttpProxy([service.port]) as proxy, client(proxy, service, ONCE) as allocator:
            await allocator.create_run(SPEC)
            await allocator.open("r", OPEN)
            commits.committed, commits.armed = cut, True
            with pytest.raises(OutcomeUnknown, match="may have been"):
                await allocator.close("r", CLOSE)
            assert [line.committed for line in (await allocator.close("r", CLOSE)).groups] == [4, 4]
            await asyncio.to_thread(own_postgres.kill)
            with pytest.raises(Unavailable) as raised:
                await allocator.close("r", CLOSE)
            assert type(raised.value) is Unavailable
            await asyncio.to_thread(own_postgres.start)


async def test_g22_trainers_finish_through_kills_and_a_bad_network(url: str, tmp_path: Path) -> None:
    """Four trainers work while every fifth message suffers and the service is killed twice; nothing is lost."""
    drawn, stop = Drawn(), asyncio.Event()
    faults = iter(range(1_000_000))

    def choose(line: str) -> Fault:
        del line
        turn = next(faults)
        return Fault.NONE if turn % 5 else FAULTS[turn // 5 % len(FAULTS)]

    async with ServiceProcess(tmp_path, url) as service, HttpProxy([service.port], choose) as proxy:
        trainers = [Trainer(proxy.url, service.token, f"r{n}", drawn, seed=n) for n in range(4)]
        work = [asyncio.create_task(trainer.work(stop)) for trainer in trainers]
        for enough in (8, 16):
            await drawn.reached(enough)
            await service.kill()
            await service.start()
        stop.set()
        await asyncio.gather(*work)
        proxy.choose = lambda _: Fault.NONE
        await asyncio.gather(*(trainer.settle() for trainer in trainers))
    assert await violations(url, drawn) == []
