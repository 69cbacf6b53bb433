"""Priors without a prior service: the sums in the database predict what those in memory do, and count each row once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest

from rollout_budget.engine import HistoryPrior
from rollout_budget.engine.history import HALF_LIFE_VERSIONS
from rollout_budget.engine.ports import Evidence
from rollout_budget.errors import Unavailable
from rollout_budget.wire import EvidenceRow, PriorModel, Prompt
from services.allocator.database import histories
from services.allocator.database.histories import FORGOTTEN_VERSIONS, SqlHistories
from services.allocator.database.store import SqlStore
from services.kit.database import connect
from services.kit.session import Database
from tests.allocator.databases import fresh_postgres, fresh_sqlite
from tests.allocator.replicas import two

KEYS = [f"prompt {index}" for index in range(12)]
PROMPTS = [Prompt(key=key) for key in (*KEYS, "new", KEYS[0])]
NEWEST = 9_000
"""Newest version of the random rows: some lie farther back than is read."""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of each kind."""
    return fresh_sqlite(tmp_path) if request.param == "sqlite" else fresh_postgres()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    engine = connect(url)
    yield SqlStore(Database(engine))
    await engine.dispose()


async def queue(store: SqlStore, rows: Iterable[EvidenceRow], team: str = "team", policy: str = "p") -> None:
    async with store.transaction() as transaction:
        await transaction.queue_evidence([Evidence(row.id, team, policy, row) for row in rows])


def some_rows(seed: int, count: int) -> list[EvidenceRow]:
    """Rows of few prompts under many versions, outcomes binary and not."""
    draw = random.Random(seed)  # noqa: S311  test data
    rows = []
    for index in range(count):
        trials = draw.randint(1, 16)
        successes = draw.choice([float(draw.randint(0, trials)), draw.uniform(0, trials)])
        version = draw.choice([draw.randint(0, 40), draw.randint(NEWEST - 300, NEWEST)])
        rows.append(
            EvidenceRow(
                id=f"{seed}-{index}", key=draw.choice(KEYS), version=version, successes=successes, trials=trials
            )
        )
    return rows


async def test_the_database_predicts_what_memory_does(url: str) -> None:
    """Whatever the order, batches and repetitions: every model, for versions before, amid and after the evidence."""
    rows, draw = some_rows(1, 400), random.Random(2)  # noqa: S311  test data
    model = HistoryPrior()
    await model.add_evidence("team", "p", rows)
    async with opened(url) as store:
        priors = SqlHistories(store)
        await queue(store, rows)
        batches = [rows[start : start + 50] for start in range(0, len(rows), 50)]
        for batch in draw.sample([*batches, *batches], 2 * len(batches)):
            await priors.add_evidence("team", "p", draw.sample(batch, len(batch)))
        for version in (0, 20, 64, FORGOTTEN_VERSIONS, 4_000, NEWEST - 100, NEWEST + 1, 2**31 - 1):
            for name in get_args(PriorModel):
                ours = await priors.values("team", "p", version, PROMPTS, name)
                theirs = await model.values("team", "p", version, PROMPTS, name)
                assert ours.model_copy(update={"values": [], "model_version": ""}) == theirs.model_copy(
                    update={"values": [], "model_version": ""}
                )
                assert [(one.key, one.evidence_count) for one in ours.values] == [
                    (one.key, one.evidence_count) for one in theirs.values
                ]
                for one, other in zip(ours.values, theirs.values, strict=True):
                    assert (one.value, one.standard_error) == pytest.approx(
                        (other.value, other.standard_error), abs=1e-6
                    )
        strictly = [await one.values("team", "p", NEWEST, PROMPTS, "history") for one in (priors, model)]
        near = [[(value.value, value.standard_error) for value in answer.values] for answer in strictly]
        assert near[0] == [pytest.approx(pair, abs=1e-12) for pair in near[1]]
        async with store.transaction() as transaction:
            assert await transaction.pending_evidence(1) == []


async def test_what_is_not_read_would_not_count() -> None:
    """The bound of a read is so far away that a million outcomes there weigh less than a thousandth of one."""
    assert 0.5 ** (FORGOTTEN_VERSIONS / HALF_LIFE_VERSIONS) * 1e6 < 1e-3


async def test_g03_two_that_deliver_the_same_rows_count_them_once(url: str) -> None:
    """At once, several times: as if one had done it."""
    rows, model = some_rows(3, 60), HistoryPrior()
    await model.add_evidence("team", "p", rows)
    async with opened(url) as store, opened(url) as other:
        await queue(store, rows)

        async def deliver(own: SqlStore) -> None:
            for start in range(0, len(rows), 20):
                await SqlHistories(own).add_evidence("team", "p", rows[start : start + 20])

        await asyncio.gather(*(deliver(own) for own in (store, other, store, other)))
        ours = await SqlHistories(other).values("team", "p", NEWEST, PROMPTS, "history")
        theirs = await model.values("team", "p", NEWEST, PROMPTS, "history")
        assert ours.evidence_version == theirs.evidence_version == len(rows)
        assert [one.evidence_count for one in ours.values] == [one.evidence_count for one in theirs.values]


async def test_g09_a_row_that_is_not_added_stays_in_the_outbox(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both or neither: whatever ends the transaction in the middle."""
    (row,) = some_rows(4, 1)

    async def away(*_: object, **__: object) -> None:
        raise Unavailable("in the middle")

    async with opened(url) as store:
        await queue(store, [row])
        with monkeypatch.context() as patch:
            patch.setattr(histories, "write", away)
            with pytest.raises(Unavailable):
                await SqlHistories(store).add_evidence("team", "p", [row])
        async with store.transaction() as transaction:
            assert [one.id for one in await transaction.pending_evidence(2)] == [row.id]
        await SqlHistories(store).add_evidence("team", "p", [row])
        assert (await SqlHistories(store).values("team", "p", 0, PROMPTS, "history")).evidence_version == 1


async def test_g14_teams_and_policies_have_their_own_past(url: str) -> None:
    """Neither learns of the other, nor takes a row of the other out of the outbox."""
    rows = some_rows(5, 20)
    async with opened(url) as store:
        priors = SqlHistories(store)
        await queue(store, rows)
        for team, policy in (("neighbour", "p"), ("team", "q")):
            await priors.add_evidence(team, policy, rows)
            assert (await priors.values(team, policy, NEWEST, PROMPTS, "history")).evidence_version == 0
        await priors.add_evidence("team", "p", rows)
        assert (await priors.values("team", "p", NEWEST, PROMPTS, "history")).evidence_version == len(rows)
        assert (await priors.values("neighbour", "p", NEWEST, PROMPTS, "history")).values[0].value == 0.5


async def test_what_one_process_learned_the_other_knows(url: str, tmp_path: Path) -> None:
    """A group is closed on one; a group of the same prompt that opens on the other has its outcomes for a prior."""
    path = "/v1/runs/r/groups"
    async with two(tmp_path, url) as (one, other):
        await one.http.post("/v1/runs", json={"run_id": "r", "policy": "p"}, headers=one.team)
        for process, group in ((one, "a"), (other, "b")):
            body = {"groups": [{"group_id": group, "prompt_key": "k"}]}
            answer = (await process.http.post(f"{path}/open", json=body, headers=process.team)).json()
            if group == "a":
                closing = {"groups": [{"group_id": "a", "used": 4, "outcomes": [1, 1, 1, 1]}]}
                closed = await one.http.post(f"{path}/close", json=closing, headers=one.team)
                assert closed.is_success
                async with asyncio.timeout(30.0):
                    while await one.waiting():
                        await other.service.deliver()
        assert not answer["degraded"]
        assert answer["groups"][0]["prior"] == pytest.approx((4 + 2 * (4 + 1) / (4 + 2)) / (4 + 2))
        assert answer["groups"][0]["evidence_version"] == 1
