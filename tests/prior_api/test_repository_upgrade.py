"""A database that an older version made opens, keeps what it held, and answers as one made anew from the same rows."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rollout_budget.wire import EvidenceRow
from services.kit import database
from services.prior_api import schema
from services.prior_api.records import Policy, Text
from services.prior_api.repository import Repository
from services.prior_api.sharing import BLOCK

FIRST_VERSION = """
CREATE TABLE prior_prompts (team VARCHAR NOT NULL, key VARCHAR NOT NULL, text_hash VARCHAR(64) NOT NULL, text {blob} NOT NULL, PRIMARY KEY (team, key));
CREATE INDEX prior_prompts_text ON prior_prompts (text_hash);
CREATE TABLE prior_features (encoder VARCHAR NOT NULL, text_hash VARCHAR(64) NOT NULL, vector {blob} NOT NULL, PRIMARY KEY (encoder, text_hash));
CREATE TABLE prior_policies (team VARCHAR NOT NULL, policy VARCHAR NOT NULL, scope VARCHAR(8) NOT NULL, rows BIGINT NOT NULL, created DOUBLE PRECISION NOT NULL, PRIMARY KEY (team, policy));
CREATE INDEX prior_policies_scope ON prior_policies (scope);
CREATE TABLE prior_evidence (team VARCHAR NOT NULL, policy VARCHAR NOT NULL, id VARCHAR NOT NULL, key VARCHAR NOT NULL, version INTEGER NOT NULL, successes DOUBLE PRECISION NOT NULL, trials INTEGER NOT NULL, given DOUBLE PRECISION, PRIMARY KEY (team, policy, id));
CREATE INDEX prior_evidence_version ON prior_evidence (team, policy, version, key);
CREATE INDEX prior_evidence_key ON prior_evidence (team, policy, key, version);
CREATE TABLE prior_versions (team VARCHAR NOT NULL, policy VARCHAR NOT NULL, version INTEGER NOT NULL, rows BIGINT NOT NULL, trials BIGINT NOT NULL, successes DOUBLE PRECISION NOT NULL, rates DOUBLE PRECISION NOT NULL, squared_rates DOUBLE PRECISION NOT NULL, within DOUBLE PRECISION NOT NULL, within_rows BIGINT NOT NULL, inverse_trials DOUBLE PRECISION NOT NULL, PRIMARY KEY (team, policy, version));
CREATE TABLE prior_given (team VARCHAR NOT NULL, policy VARCHAR NOT NULL, version INTEGER NOT NULL, key VARCHAR NOT NULL, value DOUBLE PRECISION NOT NULL, PRIMARY KEY (team, policy, version, key))
"""
"""As the tables were before they had a version."""
ROWS = [
    EvidenceRow(
        id=f"{place:03}", key=f"p{place % 7}", version=place % 11, successes=place % 5 / 2, trials=2 + place % 3
    )
    for place in range(2 * BLOCK + 5)
]
GIVEN = {(row.version, row.key): 0.1 * (row.version % 10) for row in ROWS if row.version > 4}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    sqlite = f"sqlite:///{tmp_path / 'old.db'}"
    engine = database.connect(sqlite if request.param == "sqlite" else request.getfixturevalue("postgres_url"))
    async with engine.begin() as connection:
        for table in (*reversed(schema.metadata.sorted_tables),):
            await connection.execute(text(f"DROP TABLE IF EXISTS {table.name}"))
    yield engine
    await engine.dispose()


async def fill_old(engine: AsyncEngine) -> None:
    """Write what a service of the first version would have written: two policies of one team, prompts, vectors."""
    blob = "BYTEA" if engine.dialect.name == "postgresql" else "BLOB"
    async with engine.begin() as connection:
        for statement in FIRST_VERSION.format(blob=blob).strip().split(";"):
            await connection.execute(text(statement))
        prompt = {"hash": hashlib.sha256(b"text").hexdigest(), "text": b"text", "vector": b"\0" * 64}
        for team in ("a", "b"):
            query = text("INSERT INTO prior_prompts VALUES (:team, 'p1', :hash, :text)")
            await connection.execute(query, {"team": team, "hash": prompt["hash"], "text": prompt["text"]})
        query = text("INSERT INTO prior_features VALUES ('e', :hash, :vector)")
        await connection.execute(query, {"hash": prompt["hash"], "vector": prompt["vector"]})
        for policy, scope in (("m", "private"), ("open", "shared")):
            query = text("INSERT INTO prior_policies VALUES ('a', :policy, :scope, :rows, 1.0)")
            await connection.execute(query, {"policy": policy, "scope": scope, "rows": len(ROWS)})
            query = text(
                "INSERT INTO prior_evidence VALUES ('a', :policy, :id, :key, :version, :successes, :trials, :given)"
            )
            bodies = [row.model_dump() | {"policy": policy, "given": GIVEN.get((row.version, row.key))} for row in ROWS]
            await connection.execute(query, bodies)


async def test_an_old_database_answers_as_a_new_one(engine: AsyncEngine, tmp_path: Path) -> None:
    """Cells, histories and scores equal those of the same rows added now; vectors go to every team that has the text."""
    await fill_old(engine)
    old = Repository(engine)
    await old.create_tables()
    await old.create_tables()
    new = Repository(database.connect(f"sqlite:///{tmp_path / 'new.db'}"))
    await new.create_tables()
    async with new.begin() as transaction:
        await transaction.register("a", {"p1": Text(hashlib.sha256(b"text").hexdigest(), "text")})
        for version in range(11):
            values = {key: value for (of, key), value in GIVEN.items() if of == version}
            await transaction.give("a", "m", version, values)
        await transaction.add_evidence(await transaction.lock_policy("a", "m", "private", 1.0), ROWS)
    owner = Policy("a", "m", "private", len(ROWS))
    keys = [f"p{place}" for place in range(7)]
    async with old.snapshot() as before, new.snapshot() as after:
        assert await before.cells(owner, most=999) == await after.cells(owner, most=999)
        assert await before.histories("a", "m", {}, keys) == await after.histories("a", "m", {}, keys)
        for score, expected in zip(await before.scores("a", "m"), await after.scores("a", "m"), strict=True):
            assert score.rows == expected.rows
            assert score.squared_errors == pytest.approx(expected.squared_errors)
        hashed = hashlib.sha256(b"text").hexdigest()
        for team in ("a", "b"):
            assert await before.vectors(team, "e", [hashed]) == {hashed: b"\0" * 64}
    await new.dispose()


async def test_an_old_shared_policy_crosses_with_noise(engine: AsyncEngine) -> None:
    """Whole blocks of it, and no number as it was stored; new rows go on where the old ones ended."""
    await fill_old(engine)
    repository = Repository(engine)
    await repository.create_tables()
    async with repository.begin() as transaction:
        (seen,) = await transaction.visible_policies("b", 9)
        assert (seen.policy, seen.rows) == ("open", 2 * BLOCK)
        crossed = await transaction.rows_of_others(seen, most=999)
        assert len(crossed) == 2 * BLOCK
        exact = {row.successes / row.trials for row in ROWS}
        assert sum(cell.successes / cell.trials in exact - {0.0, 1.0} for cell in crossed) < BLOCK
        owner = await transaction.lock_policy("a", "m", None, 2.0)
        more = [row.model_copy(update={"id": f"new {row.id}"}) for row in ROWS[:3]]
        await transaction.add_evidence(owner, more)
        assert len(await transaction.rows_since(Policy("a", "m", "private", len(ROWS) + 3), len(ROWS))) == 3


async def test_a_newer_database_is_refused(engine: AsyncEngine) -> None:
    """Code that does not know the tables does not touch them."""
    repository = Repository(engine)
    await repository.create_tables()
    async with engine.begin() as connection:
        await connection.execute(schema.state.insert(), {"version": schema.VERSION + 1})
    with pytest.raises(ValueError, match="newer than this service"):
        await repository.create_tables()
