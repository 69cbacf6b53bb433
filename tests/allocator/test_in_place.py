"""SQLite on the event loop's own thread: what short transactions there do as any other, and what stays in a thread."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable

from rollout_budget.errors import InvalidInput, Unavailable
from services.allocator.database.ledger import NAMED, RENEW_NAMED
from services.allocator.database.store import DELIVERED, GROUPS
from services.allocator.database.tables import metadata
from services.kit import database as kit
from services.kit.database import connect
from services.kit.rows import each_of
from services.kit.session import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A database with one table of one column."""
    made = Database(connect(f"sqlite:///{tmp_path / 'x.db'}"))
    async with made.transaction() as connection:
        await connection.execute(text("CREATE TABLE t (a INTEGER PRIMARY KEY)"))
    yield made
    await made.engine.dispose()


async def insert(database: Database, *values: int, fails: bool = False) -> None:
    """Insert in a short transaction, one after another; raise at its end if it `fails`."""
    async with database.transaction(short=True) as connection:
        for value in values:
            await connection.execute(text("INSERT INTO t VALUES (:value)"), {"value": value})
        if fails:
            raise InvalidInput("after all was written")


async def found(database: Database, *, short: bool) -> list[int]:
    async with database.transaction(short=short) as connection:
        return [int(one) for one in (await connection.execute(text("SELECT a FROM t ORDER BY a"))).scalars()]


async def test_g09_a_short_transaction_commits_as_a_whole_or_leaves_no_trace(database: Database) -> None:
    """What one wrote is there for a transaction in a thread; what raised, in Python or in SQLite, is gone."""
    async with database.transaction(short=True) as connection:
        await connection.exec_driver_sql("INSERT INTO t VALUES (?)", [(1,), (2,)])
    with pytest.raises(InvalidInput):
        await insert(database, 3, fails=True)
    with pytest.raises(IntegrityError):
        await insert(database, 4, 1)
    assert await found(database, short=False) == await found(database, short=True) == [1, 2]


async def test_g12_a_file_that_another_process_writes_to_is_waited_for_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is `Unavailable`, and nothing was stored; once the other has ended, all is well."""
    monkeypatch.setattr(kit, "PROMPT_TIMEOUT_S", 0.05)
    database = Database(connect(f"sqlite:///{tmp_path / 'x.db'}"))
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.executescript("CREATE TABLE t (a INTEGER PRIMARY KEY); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
    with pytest.raises(Unavailable):
        await insert(database, 2)
    other.execute("COMMIT")
    other.close()
    await insert(database, 2)
    assert await found(database, short=True) == [1, 2]
    await database.engine.dispose()


async def test_a_checkpoint_goes_on_beside_a_writer(database: Database, tmp_path: Path) -> None:
    """It copies what was committed into the file itself, and keeps nobody waiting."""
    await insert(database, 1)
    async with database.transaction(short=True) as connection:
        await connection.execute(text("INSERT INTO t VALUES (2)"))
        await database.checkpoint()
    file = sqlite3.connect(f"file:{tmp_path / 'x.db'}?immutable=1", uri=True)  # without what is written ahead
    assert file.execute("SELECT a FROM t").fetchall() == [(1,)]
    file.close()
    assert await found(database, short=True) == [1, 2]


async def test_both_connections_are_let_go_of_together(tmp_path: Path) -> None:
    """Nothing holds the file once the engine is disposed of: what was written ahead is in it, and its helpers are gone."""
    database = Database(connect(f"sqlite:///{tmp_path / 'x.db'}"))
    async with database.transaction(short=True) as connection:
        await connection.execute(text("CREATE TABLE t (a INTEGER PRIMARY KEY)"))
    await database.engine.dispose()
    assert os.listdir(tmp_path) == ["x.db"]  # noqa: PTH208 - nothing else is running


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (GROUPS["sqlite"], "(team=? AND run=? AND group_id=?)"),
        (NAMED["sqlite"], "(team=? AND id_digest=?)"),
        (RENEW_NAMED, "(team=? AND id_digest=?)"),
        (DELIVERED, "(evidence_id=?)"),
    ],
    ids=["groups", "named", "renew", "delivered"],
)
def test_rows_that_a_call_names_are_found_by_their_whole_key(statement: object, index: str) -> None:
    """SQLite reads no more than these, however many a team has."""
    plain = sqlite3.connect(":memory:")
    for table in metadata.sorted_tables:
        plain.execute(str(CreateTable(table).compile(dialect=sqlite.dialect())))
        for one in table.indexes:
            plain.execute(str(CreateIndex(one).compile(dialect=sqlite.dialect())))
    compiled = statement.compile(dialect=sqlite.dialect())  # type: ignore[attr-defined]  # each is a statement
    values = ["[]"] * len(compiled.positiontup or ())
    plan = [row[3] for row in plain.execute(f"EXPLAIN QUERY PLAN {compiled}", values)]
    assert any(index in step for step in plan), plan
    assert not any(step.startswith("SCAN") and "json_each" not in step and "CONSTANT" not in step for step in plan), (
        plan
    )


def test_postgresql_looks_each_row_up() -> None:
    """Whatever it knows of the table: the list is read from outside, and each of its keys inside."""
    table = metadata.tables["groups"]
    listed = GROUPS["postgresql"].compile(dialect=postgresql.dialect()).bind_names  # type: ignore[no-untyped-call]
    assert {one.key for one in listed} == {"in_ids", "in_team", "in_run"}
    (parameter,) = [one for one in listed if one.key == "in_ids"]
    made = str(each_of([table.c.record], table.c.team == "t", table.c.group_id, parameter)["postgresql"])
    assert "LATERAL" in made
    assert "OFFSET 0" in made
