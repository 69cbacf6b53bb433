"""After a restore from a backup: nothing new is granted until the grants that the backup does not know have ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout_budget.client import AllocatorClient, ResilientAllocator
from rollout_budget.wire import CloseGroup, CloseRequest, ObserveGroup, ObserveRequest, OpenGroup, OpenRequest, RunSpec
from services.allocator.__main__ import main
from services.allocator.database import restores
from tests.allocator.databases import fresh_sqlite
from tests.allocator.running import Running, running

WINDOW_S = 900.0


def opening(*names: str) -> OpenRequest:
    return OpenRequest(groups=[OpenGroup(group_id=name, prompt_key=name) for name in names])


async def restored(allocator: Running) -> None:
    async with allocator.service.database.transaction() as connection:
        await restores.declare(connection, WINDOW_S)


async def test_nothing_new_is_granted_and_what_is_held_goes_on(any_database: str, tmp_path: Path) -> None:
    """Open and observe grant nothing and say why; renewing, committing and releasing work; afterwards all is as before."""
    async with running(tmp_path, any_database) as allocator:
        engine = allocator.service.engine
        await allocator.new_key("t")
        await engine.create_run("t", RunSpec(run_id="r", policy="p", price=1e-6, k_init=2, k_max=8))
        held = (await engine.open("t", "r", opening("old", "older"))).groups
        await restored(allocator)
        again = (await engine.open("t", "r", opening("old"))).groups
        fresh = (await engine.open("t", "r", opening("new"))).groups[0]
        assert again == held[:1]
        assert (fresh.grant, fresh.reason) == (0, "restored")
        observed = ObserveRequest(groups=[ObserveGroup(group_id="old", outcomes=[1.0, 0.0])])
        decision = (await engine.observe("t", "r", observed)).groups[0]
        assert (decision.action, decision.more, decision.reason) == ("stop", 0, "restored")
        assert (await engine.heartbeat("t", "r")).renewed == 2
        closed = await engine.close(
            "t", "r", CloseRequest(groups=[CloseGroup(group_id="old", used=2), CloseGroup(group_id="older", used=1)])
        )
        assert [(group.committed, group.released) for group in closed.groups] == [(2, 0), (1, 1)]
        allocator.service.store.clock_offset_s = lambda: WINDOW_S - 5.0
        assert (await engine.open("t", "r", opening("later"))).groups[0].reason == "restored"
        allocator.service.store.clock_offset_s = lambda: WINDOW_S + 5.0
        assert (await engine.open("t", "r", opening("after"))).groups[0].grant == 2
        first = ObserveRequest(groups=[ObserveGroup(group_id="new", outcomes=[])])
        assert (await engine.observe("t", "r", first)).groups[0].more > 0
        async with allocator.service.store.transaction() as transaction:
            assert await transaction.ledger.audit() == []


async def test_a_trainer_goes_on_with_its_own_first_waves(tmp_path: Path) -> None:
    """What it draws meanwhile is overage in the books: to the last rollout, and none of it granted."""
    async with running(tmp_path, fresh_sqlite(tmp_path)) as allocator:
        token = allocator.team["Authorization"].removeprefix("Bearer ")
        async with AllocatorClient("http://a", token, transport=allocator.http._transport) as client:
            trainer = ResilientAllocator(client)
            await trainer.create_run(RunSpec(run_id="r", policy="p", stopping="fixed", k_init=2, k_max=4))
            await restored(allocator)
            answer = await trainer.open("r", opening("a", "b"))
            assert [(group.grant, group.reason) for group in answer.groups] == [(4, "local_fallback")] * 2
            assert answer.degraded
            assert (await trainer.open("r", opening("a", "b"))).groups == answer.groups
            seen = ObserveRequest(groups=[ObserveGroup(group_id=name, outcomes=[1.0, 0.0, 1.0, 0.0]) for name in "ab"])
            decided = await trainer.observe("r", seen)
            assert {(one.action, one.reason) for one in decided.groups} == {("stop", "local_fallback")}
            await trainer.close("r", CloseRequest(groups=[CloseGroup(group_id=name, used=4) for name in "ab"]))
            usage = (await client.get_run("r")).usage
            assert (usage.granted, usage.committed, usage.overage, usage.reserved) == (0, 0, 8, 0)


def test_the_command_declares_a_restore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`restored` says how long nothing is granted; a window that no lease can have is refused."""
    fresh_sqlite(tmp_path).removeprefix("sqlite:///")
    database = next(tmp_path.glob("*.db")).rename(tmp_path / "allocator.db")
    assert main(["restored", "--data", str(tmp_path), "--window-s", "900"]) == 0
    assert capsys.readouterr().out == "no new grants for 900 s; renew, commit and release go on\n"
    assert database.exists()
    with pytest.raises(SystemExit):
        main(["restored", "--data", str(tmp_path), "--window-s", "86401"])
