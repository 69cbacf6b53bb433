"""Every statement of a request walks an index from where it starts to where it ends: none reads a whole table.

The plans are those of the databases themselves, for the statements that the code really sends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rollout_budget.wire import EvidenceRow
from services.kit import database
from services.prior_api.histories import RECENT, History
from services.prior_api.records import Policy, Text
from services.prior_api.repository import Repository, Transaction
from services.prior_api.sharing import BLOCK

ROWS = [
    EvidenceRow(id=f"{place:04}", key=f"p{place % 50}", version=place // 50, successes=place % 3, trials=4)
    for place in range(20 * BLOCK)
]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    sqlite = f"sqlite:///{tmp_path / 'prior.db'}"
    engine = database.connect(sqlite if request.param == "sqlite" else request.getfixturevalue("postgres_url"))
    yield engine
    await engine.dispose()


async def read_all(transaction: Transaction) -> None:
    """Everything that a values call, a refit, an append and the views read."""
    own, other = Policy("a", "m", "private", len(ROWS)), Policy("b", "open", "shared", len(ROWS))
    await transaction.prompt_hashes("a", ["p1", "p2"])
    await transaction.texts("a", ["h1"])
    await transaction.vectors("a", "e", ["h1"])
    await transaction.standing("a", 64)
    await transaction.evidence_version("a")
    await transaction.histories("a", "m", {}, ["p1", "p2"])
    await transaction.levels("a", "m", near=7, most=4)
    await transaction.levels("a", "m", most=4)
    await transaction.cells(own, most=16)
    await transaction.rows_since(own, len(ROWS) - 3)
    await transaction.rows_of_others(other, most=16)
    await transaction.rows_of_others_since(other, len(ROWS) - 3)
    await transaction.own_policies("a", "m")
    await transaction.scores("a", "m", since=3)
    await transaction.newest("a", 4)


async def plans(engine: AsyncEngine) -> dict[str, str]:
    """Return the plan of each statement of `read_all`."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            sent.append((statement, parameters))

    postgres = engine.dialect.name == "postgresql"
    found = {}
    async with engine.begin() as connection:
        event.listen(engine.sync_engine, "before_cursor_execute", note)
        await read_all(Transaction(connection))
        event.remove(engine.sync_engine, "before_cursor_execute", note)
        if postgres:
            for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin"):  # a small table is read whole otherwise
                await connection.execute(text(f"SET LOCAL enable_{way} = off"))
        for statement, parameters in sent:
            rows = await connection.exec_driver_sql(
                f"EXPLAIN {'' if postgres else 'QUERY PLAN '}{statement}", parameters
            )
            found[statement] = "\n".join(str(row[-1]) for row in rows)
    return found


async def test_no_statement_reads_a_whole_table(engine: AsyncEngine) -> None:
    """No scan without an index; and the newest rows come off an index in order, without a sort of all there are."""
    repository = Repository(engine)
    await repository.create_tables()
    async with repository.begin() as transaction:
        await transaction.register("a", {"p1": Text("h1", "text")})
        for team, policy, scope in (("a", "m", "private"), ("b", "open", "shared")):
            await transaction.add_evidence(await transaction.lock_policy(team, policy, scope, 1.0), ROWS)
    if engine.dialect.name == "postgresql":
        async with engine.begin() as connection:
            await connection.execute(text("ANALYZE"))
    found = await plans(engine)
    assert len(found) >= 15
    for statement, plan in found.items():
        assert "Seq Scan" not in plan, (statement, plan)
        assert not any(line.startswith("SCAN prior_") for line in plan.splitlines()), (statement, plan)
        large = any(f"FROM {table}" in statement for table in ("prior_cells", "prior_rows", "prior_versions"))
        if large and "LIMIT" in statement:
            assert "TEMP B-TREE" not in plan, (statement, plan)
            assert "Sort" not in plan, (statement, plan)


def test_a_history_is_bounded_and_does_not_depend_on_order() -> None:
    """The newest versions with their exact sums, however rows came; the count is of all rows."""
    rows = [
        EvidenceRow(id=str(place), key="p", version=place % 9, successes=0.1 * (place % 7), trials=1 + place % 3)
        for place in range(60)
    ]
    whole = History().add(rows)
    pieces = History()
    for start in (40, 0, 20):
        pieces = History.unpack(pieces.rows, pieces.add(reversed(rows[start : start + 20])).pack())
        pieces = History(pieces.rows + 20, pieces.recent)
    assert pieces == whole
    assert [cell.version for cell in whole.recent] == [8, 7, 6, 5][:RECENT]
    assert whole.rows == 60
