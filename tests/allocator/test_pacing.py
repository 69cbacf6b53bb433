"""A paced price with two allocators on one database: one state, whoever is asked, and a repeated request counts once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.allocator.databases import fresh_postgres
from tests.allocator.replicas import two
from tests.allocator.running import Running

RUN = {"run_id": "r", "policy": "p", "limits": {"rollouts": 60}, "pacing": {"steps": 10}}
SHIPPED = 1 / 256
GROUPS = 8


async def post(replica: Running, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await replica.http.post(f"/v1/runs{path}", json=body, headers=replica.team)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def price(replica: Running) -> float:
    answer = await replica.http.get("/v1/runs/r", headers=replica.team)
    return float(answer.json()["price"])


async def state(replica: Running) -> object:
    async with replica.service.store.transaction() as transaction:
        return (await transaction.run("default", "r")).pacing


def opening(step: int) -> dict[str, Any]:
    return {"groups": [{"group_id": f"{step} {n}", "prompt_key": f"{n}", "step": step} for n in range(GROUPS)]}


@pytest.mark.postgres
async def test_g14_replicas_agree_on_the_price_and_a_repeated_request_counts_once(tmp_path: Path) -> None:
    """Each step is opened at one, repeated, heard and closed at the other, repeated: one price at both throughout."""
    async with two(tmp_path, fresh_postgres()) as replicas:
        await post(replicas[0], "", RUN)
        prices = []
        for step in range(4):
            here, there = replicas[step % 2], replicas[1 - step % 2]
            granted = await post(here, "/r/groups/open", opening(step))
            begun = await state(here)
            assert (await post(there, "/r/groups/open", opening(step)))["groups"] == granted["groups"]
            assert await state(there) == begun
            sizes = {group["group_id"]: group["grant"] for group in granted["groups"]}
            heard = [{"group_id": name, "outcomes": [float(i % 2) for i in range(n)]} for name, n in sizes.items() if n]
            await post(there, "/r/groups/observe", {"groups": heard})
            closing = {"groups": [{"group_id": name, "used": used} for name, used in sizes.items()]}
            await post(there, "/r/groups/close", closing)
            told = await state(there)
            assert told != begun
            await post(here, "/r/groups/close", closing)
            assert await state(here) == told
            prices.append(await price(here))
            assert await price(there) == prices[-1]
        assert prices[0] == pytest.approx(SHIPPED)
        assert prices[1] != prices[0]
