"""G19: what migrations build is what the code expects, on both databases, up and down."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.errors import Unavailable
from rollout_budget.ledger.base import Account, Ask
from rollout_budget.ledger.books import day_of
from rollout_budget.wire import RolloutCounts, RunLimits, TeamLimits
from services.allocator.__main__ import main
from services.allocator.database import migrate
from services.allocator.database.clock import now_s
from services.allocator.database.ledger import SqlLedger
from services.allocator.database.store import SqlStore
from services.allocator.database.tables import metadata, runs
from services.kit.database import connect
from services.kit.session import Database
from tests.allocator.running import running
from tests.postgres import postgres_url

__all__ = ["postgres_url"]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


def differences(connection: Connection) -> list[object]:
    options = {"compare_type": True, "compare_server_default": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


async def test_g19_migrations_build_the_tables_of_the_code(empty_database: str) -> None:
    """Upgrading twice is harmless, leaves no difference, and downgrading leaves nothing."""
    engine = connect(empty_database)
    async with engine.connect() as connection:
        assert not await migrate.is_current(connection)
    await migrate.upgrade(engine)
    await migrate.upgrade(engine)
    async with engine.begin() as connection:
        assert await migrate.is_current(connection)
        assert await connection.run_sync(differences) == []
    await migrate.downgrade(engine, "base")
    async with engine.connect() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["alembic_version"]
    await engine.dispose()


@pytest.mark.postgres
async def test_g19_a_migration_takes_as_long_as_it_needs_and_waits_for_no_table(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds of a request's statements would end it on a large ledger, however often it is tried."""
    found: dict[str, str] = {}

    def look(connection: Connection) -> None:
        for name in ("statement_timeout", "lock_timeout"):
            found[name] = str(connection.scalar(text(f"SHOW {name}")))

    monkeypatch.setattr(migrate, "raise_wall", look)
    engine = connect(postgres_url)
    await migrate.upgrade(engine)
    async with engine.begin() as connection:
        after = await connection.scalar(text("SHOW statement_timeout"))
    await engine.dispose()
    assert (found, after) == ({"statement_timeout": "0", "lock_timeout": "2s"}, "10s")


OLD = {"team": "t", "run": "r", "step": 3, "reference": 0, "tokens": 0, "seconds": 0.0, "at_s": 0.0}
OLD_ENTRIES = [
    {**OLD, "kind": "reserve", "reservation": "r/g/0/0", "rollouts": 4, "day": "2026-11-22"},
    {**OLD, "kind": "reserve", "reservation": "r/g/0/1", "rollouts": 3, "day": "2026-11-22"},
    {**OLD, "kind": "commit", "reservation": "r/g/0/0", "rollouts": 4, "day": "2026-11-22"},
    {**OLD, "kind": "commit", "reservation": "r/g/0/1", "rollouts": 1, "day": "2026-11-22"},
    {**OLD, "kind": "release", "reservation": "r/g/0/1", "rollouts": 2, "day": "2026-11-22"},
    {**OLD, "kind": "overage", "reservation": "r/g/0/1", "rollouts": 2, "day": "2026-12-01"},
    {
        **(OLD | {"reference": 16, "tokens": 900, "seconds": 1.5}),
        "kind": "close",
        "reservation": "r/g/0/1",
        "rollouts": 0,
        "day": "2026-12-01",
    },
]
"""A group as the release before sums of usage wrote it."""


async def written_by_the_release_before(connection: AsyncConnection) -> None:
    """Append a group's entries and move the counters, as that release did: it knew none of the newer columns."""
    columns = list(OLD_ENTRIES[0])
    values = ", ".join(f":{name}" for name in columns)
    await connection.execute(text(f"INSERT INTO entries ({', '.join(columns)}) VALUES ({values})"), OLD_ENTRIES)  # noqa: S608  names of this file
    for run, span, committed, overage in (
        ("", "total", 5, 2),
        ("", "day:2026-11-22", 5, 0),
        ("", "month:2026-11", 5, 0),
        ("", "day:2026-12-01", 0, 2),
        ("", "month:2026-12", 0, 2),
        ("r", "total", 5, 2),
        ("r", "step:3", 5, 2),
    ):
        row = {"run": run, "span": span, "committed": committed, "overage": overage}
        await connection.execute(
            text(
                "INSERT INTO accounts (team, run, span, committed, overage) "
                "VALUES ('t', :run, :span, :committed, :overage) ON CONFLICT (team, run, span) DO UPDATE SET "
                "committed = accounts.committed + :committed, overage = accounts.overage + :overage"
            ),
            row,
        )


async def test_g19_entries_of_the_release_before_are_summed_whenever_they_are_written(empty_database: str) -> None:
    """Before the migration and after it: a process of that release that is still running puts nothing out of balance."""
    engine = connect(empty_database)
    await migrate.upgrade(engine, "0002")
    async with engine.begin() as connection:
        await written_by_the_release_before(connection)
    await migrate.upgrade(engine)
    for times in (1, 2):
        async with engine.begin() as connection:
            ledger = SqlLedger(connection)
            assert await ledger.audit() == []
            usage = (await ledger.usage("t", ["run", "policy"]))[0]
            assert (usage.run, usage.policy) == ("r", "")
            assert usage.counts == RolloutCounts(
                granted=7 * times,
                committed=5 * times,
                released=2 * times,
                overage=2 * times,
                extra=3 * times,
                groups_closed=times,
                saved=9 * times,
                tokens=900 * times,
                seconds=1.5 * times,
            )
            assert [line.kind for line in await ledger.entries("t", "overage")] == ["overage"] * times
            rows = await connection.execute(text("SELECT span, tokens, milliseconds FROM accounts WHERE tokens > 0"))
            assert {row.span for row in rows} == {"total", "day:2026-12-01", "month:2026-12", "step:3"}
            if times == 1:
                await written_by_the_release_before(connection)
    await engine.dispose()


async def test_g01_rows_that_the_release_before_opens_keep_every_limit(empty_database: str) -> None:
    """It knows limits in rollouts alone. Its rows of a day and a step outlast it, and bind whoever grants there."""
    engine = connect(empty_database)
    await migrate.upgrade(engine)
    account = Account("t", "r")
    for place, (team, run) in enumerate(
        [
            (TeamLimits(tokens_per_day=100), RunLimits(tokens_per_rollout=10)),
            (TeamLimits(gpu_seconds_per_month=1.0), RunLimits(gpu_seconds_per_rollout=0.1)),
            (TeamLimits(), RunLimits(tokens_per_step=100, tokens_per_rollout=10)),
        ]
    ):
        async with engine.begin() as connection:
            ledger = SqlLedger(connection)
            await connection.execute(text("DELETE FROM accounts"))
            await ledger.set_team_limits("t", team)
            await ledger.open_account(account, run)
            today = day_of(float(await connection.scalar(select(now_s())) or 0.0))
            for span in (f"day:{today}", f"month:{today[:7]}", "step:1"):
                row = {"span": span, "pattern": span.partition(":")[0] + ":"}
                await connection.execute(
                    text(
                        "INSERT INTO accounts (team, run, span, limit_rollouts) SELECT team, run, :span, limit_rollouts "
                        "FROM accounts WHERE span = :pattern"
                    ),
                    row,
                )
            assert await ledger.available(account, step=1) == 10
            held = await ledger.reserve(account, [Ask(f"r/{place}/0/0", 40, 1)], 60.0, lambda left: [left])
            assert held[0].rollouts == 10
    await engine.dispose()


async def test_readiness_waits_for_the_newest_migration(tmp_path: Path) -> None:
    """A service of newer code is not ready on an older database, and says so."""
    async with running(tmp_path, f"sqlite:///{tmp_path / 'a.db'}") as allocator:
        async with allocator.service.database.transaction() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        answer = await allocator.http.get("/readyz")
        assert (answer.status_code, answer.json()["detail"]) == (503, "the database is not at the newest migration")
        async with allocator.service.database.transaction() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = 'of the next release'"))
        assert (await allocator.http.get("/readyz")).status_code == 200


def test_the_migrate_command_prepares_a_production_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m services.allocator migrate` with settings from the environment; without secrets it says what is missing."""
    url = f"sqlite:///{tmp_path / 'production.db'}"
    for name, value in {"MODE": "production", "DATABASE_URL": url, "PEPPER": "p" * 32}.items():
        monkeypatch.setenv(f"ROLLOUT_BUDGET_ALLOCATOR_{name}", value)
    assert main(["migrate"]) == 2
    monkeypatch.setenv("ROLLOUT_BUDGET_ALLOCATOR_ADMIN_KEY", "a" * 32)
    assert main(["migrate"]) == 0
    assert (tmp_path / "production.db").exists()


async def test_a_database_before_migrate_is_unavailable_and_says_so(empty_database: str) -> None:
    """Not a failure of the service: whoever runs it is told what to do, clients try again."""
    engine = connect(empty_database)
    said = "busy or away"
    if engine.dialect.name == "postgresql":
        said = "run `migrate`"
        async with engine.begin() as connection:  # what tests before this one left
            await connection.execute(text("DROP SCHEMA public CASCADE"))
            await connection.execute(text("CREATE SCHEMA public"))
    with pytest.raises(Unavailable, match=said):
        async with SqlStore(Database(engine)).transaction() as transaction:
            await transaction.run("team", "run")
    with pytest.raises(Unavailable, match=said):
        async with Database(engine).snapshot() as connection:
            await connection.execute(select(runs))
    await engine.dispose()
