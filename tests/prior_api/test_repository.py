"""One conformance suite of the storage, over real SQLite and real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollout_budget.errors import Conflict, NotFound, Unavailable
from rollout_budget.wire import EvidenceRow
from services.kit import database
from services.prior_api.quality import levels_of
from services.prior_api.records import Cell, Known, Policy, Text
from services.prior_api.repository import Repository, Transaction
from services.prior_api.sharing import BLOCK


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def repository(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Repository]:
    """A repository with tables; PostgreSQL's is shared by the module, so tests use teams of their own."""
    sqlite = f"sqlite:///{tmp_path / 'prior.db'}"
    url = sqlite if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    repository = Repository(database.connect(url))
    await repository.create_tables()
    yield repository
    await repository.dispose()


@pytest.fixture
def team(request: pytest.FixtureRequest) -> str:
    """A team that no other test has."""
    return str(request.node.name)


def row(identifier: str, key: str = "p", version: int = 1, successes: float = 1, trials: int = 2) -> EvidenceRow:
    return EvidenceRow(id=identifier, key=key, version=version, successes=successes, trials=trials)


async def add(
    transaction: Transaction, team: str, *rows: EvidenceRow, policy: str = "m", scope: str = "private"
) -> int:
    owner = await transaction.lock_policy(team, policy, scope, 1.0)
    return len(await transaction.add_evidence(owner, rows))


async def test_tables_can_be_made_twice_at_once(repository: Repository) -> None:
    """Two processes that start together do not trip over each other."""
    await asyncio.gather(*(repository.create_tables() for _ in range(4)))


async def test_evidence_is_added_up_by_version_and_key(repository: Repository, team: str) -> None:
    """Rows of one prompt and version become one cell with the hash of its text; newest versions come first."""
    async with repository.begin() as transaction:
        await transaction.register(team, {"p": Text("h", "text")})
        await add(transaction, team, row("1"), row("2", successes=0.5), row("3", "q", 7, 3, 3))
        owner = Policy(team, "m", "private", 3)
        cells = await transaction.cells(owner, most=9)
        assert cells == [Cell(team, "m", "q", None, 7, 3.0, 3, 1), Cell(team, "m", "p", "h", 1, 1.5, 4, 2)]
        assert await transaction.cells(owner, most=1) == cells[:1]
        histories = await transaction.histories(team, "m", {"p": "h"}, ["p", "other"])
        assert histories == {"p": Known(2, cells[1:])}
        assert await transaction.evidence_version(team) >= 3


async def test_levels_add_up_over_requests(repository: Repository, team: str) -> None:
    """The sums of a version equal those of all its rows, in whatever batches they came."""
    rows = [row(str(i), f"p{i}", i % 3, i % 4, 4) for i in range(12)]
    for part in (rows[:5], rows[3:9], rows):
        async with repository.begin() as transaction:
            await add(transaction, team, *part)
    async with repository.begin() as transaction:
        assert await transaction.levels(team, "m", most=9) == levels_of(rows)
        assert [level.version for level in await transaction.levels(team, "m", most=2)] == [1, 2]
        assert [level.version for level in await transaction.levels(team, "m", near=0, most=2)] == [0, 1]


async def test_a_raise_inside_leaves_nothing(repository: Repository, team: str) -> None:
    """What a transaction did before an error is not there afterwards, the policy and the prompts included."""

    async def contradict() -> None:
        async with repository.begin() as transaction:
            await transaction.register(team, {"p": Text("h", "text")})
            await add(transaction, team, row("1"))
            await add(transaction, team, row("1", successes=2))

    with pytest.raises(Conflict):
        await contradict()
    async with repository.begin() as transaction:
        assert await transaction.own_policies(team) == []
        assert await transaction.prompt_hashes(team, ["p"]) == {}
        with pytest.raises(NotFound):
            await transaction.own_policies(team, "m")


@pytest.mark.parametrize("body", [{"key": "q"}, {"version": 2}, {"successes": 0.0}, {"trials": 3}])
async def test_g04_another_body_conflicts(repository: Repository, team: str, body: dict[str, Any]) -> None:
    """An id compares its whole body."""
    async with repository.begin() as transaction:
        assert await add(transaction, team, row("1")) == 1
        assert await add(transaction, team, row("1")) == 0
        with pytest.raises(Conflict, match="'1'"):
            await add(transaction, team, row("1", **body))


async def test_g03_concurrent_repeats_count_once(repository: Repository, team: str) -> None:
    """Sixteen writers of overlapping batches store every id once and count what is there."""
    rows = [row(f"{i:03}", f"p{i}", i % 3) for i in range(60)]

    async def write(start: int) -> int:
        async with repository.begin() as transaction:
            return await add(transaction, team, *rows[start % 40 : start % 40 + 20])

    stored = await asyncio.gather(*(write(start * 7) for start in range(16)))
    async with repository.begin() as transaction:
        (policy,) = await transaction.own_policies(team, "m")
        cells = await transaction.cells(policy, most=999)
        levels = await transaction.levels(team, "m", most=9)
    assert sum(stored) == policy.rows == sum(cell.rows for cell in cells) == sum(level.rows for level in levels)


async def test_g14_only_shared_policies_are_visible_to_others(repository: Repository, team: str) -> None:
    """Another team learns from the shared policy alone; own policies come first, the newest first."""
    async with repository.begin() as transaction:
        mine, other = f"{team}-mine", f"{team}-other"
        before = await transaction.evidence_version("nobody")
        await add(transaction, other, row("1"), policy="secret")
        block = [row(str(place)) for place in range(BLOCK)]
        await add(transaction, other, *block, row("more"), policy="open", scope="shared")
        await add(transaction, other, *block[1:], policy="too few", scope="shared")
        await add(transaction, mine, row("1"), policy="own")
        assert await transaction.evidence_version("nobody") == before + BLOCK
        assert await transaction.evidence_version(mine) == before + BLOCK + 1
        assert await transaction.evidence_version(other) == before + 1 + BLOCK + 1 + BLOCK - 1
        visible = await transaction.visible_policies(mine, 100)
        assert visible[0] == Policy(mine, "own", "private", 1)
        assert Policy(other, "open", "shared", BLOCK) in visible
        assert all(policy.policy not in {"secret", "too few"} for policy in visible)


async def test_scope_is_stated_once(repository: Repository, team: str) -> None:
    """The first scope stands."""
    async with repository.begin() as transaction:
        await transaction.lock_policy(team, "m", "shared", 1.0)
        with pytest.raises(Conflict, match="shared"):
            await transaction.lock_policy(team, "m", "private", 2.0)


async def test_prompts_keep_their_text_and_features(repository: Repository, team: str) -> None:
    """Texts of any characters come back by hash; features by encoder; the first of each stands."""
    async with repository.begin() as transaction:
        hash_ = f"hash-{team}"[:64]
        assert (
            await transaction.register(team, {"p": Text(hash_, "nul \x00 中文"), "q": Text(hash_, "nul \x00 中文")})
            == 2
        )
        assert await transaction.register(team, {"p": Text(hash_, "nul \x00 中文")}) == 0
        assert await transaction.texts(team, [hash_]) == {hash_: "nul \x00 中文"}
        with pytest.raises(Conflict):
            await transaction.register(team, {"p": Text("other", "other")})
        await transaction.keep_vectors("e1", {(team, hash_): b"1"})
        await transaction.keep_vectors("e1", {(team, hash_): b"2"})
        assert await transaction.vectors(team, "e1", [hash_]) == {hash_: b"1"}
        assert await transaction.vectors(team, "e2", [hash_]) == {}
        assert await transaction.vectors("other", "e1", [hash_]) == {}


async def test_the_last_value_given_is_scored(repository: Repository, team: str) -> None:
    """Evidence takes the value last given for its key and version, and no other; tenths include their lower edge."""
    async with repository.begin() as transaction:
        await transaction.give(team, "m", 1, {"p": 0.9, "q": 1.0})
        await transaction.give(team, "m", 1, {"p": 0.5})
        await add(transaction, team, row("1"), row("2", "q"), row("3", version=2), row("4", "unasked"))
        await transaction.give(team, "m", 2, {"p": 0.1})
        scores = await transaction.scores(team, "m")
    assert [(score.version, score.bin, score.rows) for score in scores] == [(1, 5, 1), (1, 9, 1)]
    assert scores[0].squared_errors == 0.0
    assert scores[1].squared_errors == 0.25
    assert scores[1].inverse_trials == 0.5


async def test_a_database_that_is_not_there_is_unavailable() -> None:
    """A refused connection is the retryable error, not a crash."""
    repository = Repository(database.connect("postgresql://nobody@127.0.0.1:1/none"))
    with pytest.raises(Unavailable):
        async with repository.begin():
            raise AssertionError("no connection was made")
    await repository.dispose()
