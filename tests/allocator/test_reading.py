"""What only reads keys, teams, changes or the schema waits for no writer; a revocation is not lost to a look-up (G12, G14)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from rollout_budget.errors import Unauthorized
from services.allocator.database.keyring import Keyring
from tests.allocator.databases import fresh_sqlite
from tests.allocator.running import Running, running

READS = ("teams", "teams/default", "budgets/default", "keys", "changes")


async def test_g12_readiness_keys_and_lists_wait_for_no_writer(tmp_path: Path) -> None:
    """A transaction that holds SQLite's only turn, as a long one does: these answer meanwhile, and see what was committed."""
    async with running(tmp_path, fresh_sqlite(tmp_path)) as allocator:
        key = await allocator.new_key("new", "admin")
        async with allocator.service.database.transaction() as connection:
            await connection.execute(text("UPDATE teams SET name = 'being written'"))
            assert (await allocator.http.get("/readyz")).status_code == 200
            answers = [await allocator.http.get(f"/v1/admin/{path}", headers=key) for path in READS]
            answers.append(await allocator.http.get("/v1/changes", headers=allocator.team))
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        assert all("being written" not in answer.text for answer in answers)


async def test_g14_a_key_revoked_while_it_is_looked_up_is_not_remembered(
    any_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request that came before the revocation may pass; the next is refused, at once, by the process that revoked."""
    async with running(tmp_path, any_database) as allocator:
        token = (await allocator.new_key("new"))["Authorization"].removeprefix("Bearer ")
        door, found, revoked = allocator.service.door, asyncio.Event(), asyncio.Event()
        with monkeypatch.context() as patched:
            patched.setattr(Keyring, "find", _between(Keyring.find, found, revoked))
            looking = asyncio.create_task(door.identify(token))
            await found.wait()
        await _revoke_all(allocator)
        revoked.set()
        assert (await looking).team == "new"
        with pytest.raises(Unauthorized):
            await door.identify(token)


def _between(real: Callable[..., Any], found: asyncio.Event, revoked: asyncio.Event) -> Callable[..., Any]:
    async def find(keyring: Keyring, digest: str) -> Any:
        row = await real(keyring, digest)
        found.set()
        await revoked.wait()
        return row

    return find


async def _revoke_all(allocator: Running) -> None:
    listed = (await allocator.http.get("/v1/admin/keys", headers=allocator.admin, params={"team": "new"})).json()
    for key in listed["keys"]:
        answer = await allocator.http.delete(f"/v1/admin/keys/{key['key_id']}", headers=allocator.admin)
        assert answer.json()["revoked"]
