"""G19: what migrations build is what the code expects, on both databases, up and down."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from services.allocator.__main__ import main
from services.allocator.database import migrate
from services.allocator.database.tables import metadata
from services.kit.database import connect
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
        await connection.run_sync(lambda sync: command.downgrade(migrate.config(sync), "base"))
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["alembic_version"]
    await engine.dispose()


async def test_readiness_waits_for_the_newest_migration(tmp_path: Path) -> None:
    """A service of newer code is not ready on an older database, and says so."""
    async with running(tmp_path, f"sqlite:///{tmp_path / 'a.db'}") as allocator:
        async with allocator.service.database.transaction() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = 'older'"))
        answer = await allocator.http.get("/readyz")
        assert (answer.status_code, answer.json()["detail"]) == (503, "the database is not at the newest migration")


def test_the_migrate_command_prepares_a_production_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m services.allocator migrate` with settings from the environment; without secrets it says what is missing."""
    url = f"sqlite:///{tmp_path / 'production.db'}"
    for name, value in {"MODE": "production", "DATABASE_URL": url, "PEPPER": "p" * 32}.items():
        monkeypatch.setenv(f"ROLLOUT_BUDGET_ALLOCATOR_{name}", value)
    assert main(["migrate"]) == 2
    monkeypatch.setenv("ROLLOUT_BUDGET_ALLOCATOR_ADMIN_KEY", "a" * 32)
    assert main(["migrate"]) == 0
    assert (tmp_path / "production.db").exists()
