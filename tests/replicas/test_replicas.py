"""Several allocator processes on one PostgreSQL: they answer as one, and are replaced under load without loss."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from rollout_budget.client.local import LocalAllocator
from rollout_budget.engine import HistoryPrior
from services.allocator.database.store import SqlStore
from services.kit.database import connect
from services.kit.session import Database
from tests.allocator.databases import migrated
from tests.postgres import postgres_url
from tests.replicas.fleet import ADMIN_KEY, Fleet, client, key_of
from tests.replicas.work import SPEC, Trainer

__all__ = ["postgres_url"]
pytestmark = [pytest.mark.services, pytest.mark.postgres, pytest.mark.timeout(900)]
REVOKED_EVERYWHERE_S = 60.0
"""A revoked key is asked for until then. That a replica trusts it for 5 s is `test_keys`'s, with a clock of its own; here
busy cores may delay every answer."""


async def audited(url: str) -> None:
    """Recompute all counters from their entries."""
    engine = connect(url)
    async with SqlStore(Database(engine)).transaction() as transaction:
        assert await transaction.ledger.audit() == []
    await engine.dispose()


async def test_replicas_answer_as_one_process_does(postgres_url: str) -> None:
    """Requests go to one of three by chance, a third of them to two at once: decisions, learning and sums are those of one."""
    alone, trainer, model = LocalAllocator("team", HistoryPrior()), Trainer("t"), Trainer("t")
    async with Fleet(migrated(postgres_url)) as fleet:
        for _ in range(3):
            await fleet.start()
        token = await key_of(fleet, "team")
        async with client(fleet, token, seed=1, twice=0.33) as spread:
            await spread.create_run(SPEC)
            await alone.create_run(SPEC)
            for _ in range(12):
                await trainer.step(spread)
                await model.step(alone)
            assert trainer.decisions == model.decisions
            assert trainer.used == model.used
            ours, theirs = await spread.get_run("r"), await alone.get_run("r")
            assert ours.prior == theirs.prior
            assert ours.usage == theirs.usage
            await revoked_on_all(fleet, token)
    await audited(postgres_url)


async def revoked_on_all(fleet: Fleet, token: str) -> None:
    """Revoke all keys on one replica: none of them opens any replica."""
    own, admin = ({"Authorization": f"Bearer {one}"} for one in (token, ADMIN_KEY))
    async with httpx.AsyncClient() as http:
        for replica in fleet.ready:
            assert (await http.get(f"{replica.url}/v1/budget", headers=own)).status_code == 200
        first = fleet.ready[0].url
        for key in (await http.get(f"{first}/v1/admin/keys", headers=admin)).json()["keys"]:
            await http.delete(f"{first}/v1/admin/keys/{key['key_id']}", headers=admin)
        async with asyncio.timeout(REVOKED_EVERYWHERE_S):
            for replica in fleet.ready:
                while (await http.get(f"{replica.url}/v1/budget", headers=own)).status_code != 401:  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.2)


async def test_g21_a_rolling_restart_under_load_loses_nothing(postgres_url: str, tmp_path: Path) -> None:
    """Three replicas are replaced one after another: no step fails, all that was acknowledged is there, budgets are exact."""
    del tmp_path
    trainers = [Trainer(name) for name in "abcd"]
    stop = asyncio.Event()
    async with Fleet(migrated(postgres_url)) as fleet:
        for _ in range(3):
            await fleet.start()
        token = await key_of(fleet, "rolling")

        async def work(trainer: Trainer, seed: int) -> None:
            async with client(fleet, token, seed, twice=0.1) as own:
                while not stop.is_set():
                    await trainer.step(own)

        async with client(fleet, token, seed=0) as own:
            await own.create_run(SPEC)
            load = [asyncio.create_task(work(trainer, seed)) for seed, trainer in enumerate(trainers)]
            for replica in list(fleet.ready):
                before = sum(trainer.steps for trainer in trainers)
                await fleet.start()
                assert await fleet.retire(replica) in {0, -15}
                while sum(trainer.steps for trainer in trainers) < before + 4:
                    assert not any(task.done() for task in load)
                    await asyncio.sleep(0.1)
            stop.set()
            await asyncio.gather(*load)
            usage = (await own.get_run("r")).usage
    drawn = sum(sum(trainer.used.values()) for trainer in trainers)
    assert (usage.committed, usage.reserved, usage.overage) == (drawn, 0, 0)
    assert usage.groups_closed == sum(used > 0 for trainer in trainers for used in trainer.used.values())
    await audited(postgres_url)


async def test_g01_a_budget_is_spent_to_the_last_rollout_over_replicas(postgres_url: str) -> None:
    """Four trainers on three replicas draw a team's limit together: all of it, and not one more."""
    limit, trainers = 301, [Trainer(name) for name in "efgh"]
    async with Fleet(migrated(postgres_url)) as fleet:
        for _ in range(3):
            await fleet.start()
        token = await key_of(fleet, "capped", {"rollouts": limit})

        async def work(trainer: Trainer, seed: int) -> None:
            async with client(fleet, token, seed, twice=0.2) as own:
                while trainer.granted:
                    await trainer.step(own)

        async with client(fleet, token, seed=0) as own:
            await own.create_run(SPEC)
            await asyncio.gather(*(work(trainer, seed) for seed, trainer in enumerate(trainers)))
            view = await own.budget()
    assert view.usage.committed == sum(sum(trainer.used.values()) for trainer in trainers)
    assert view.usage.committed + (view.available or 0) == limit
    assert view.usage.overage == 0
    await audited(postgres_url)
