"""G14, the second wall: PostgreSQL itself keeps teams apart when a statement forgets to."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import ColumnElement, delete, func, insert, make_url, select, text, true, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import Table

from rollout_budget.engine.records import GroupKey
from rollout_budget.errors import NotFound
from rollout_budget.wire import CloseGroup, CloseRequest, ObserveGroup, ObserveRequest, OpenGroup, OpenRequest, RunSpec
from services.allocator.database import migrate, store, wall
from services.allocator.database.tables import accounts, groups, metadata, runs
from services.allocator.database.wall import Wall
from services.allocator.migrations.second_wall import ROLE, UNTOUCHED
from services.kit.database import connect
from services.kit.session import Database
from tests.allocator.databases import fresh_postgres, migrated
from tests.allocator.running import Running, running
from tests.postgres import postgres_url, server_url

__all__ = ["postgres_url"]
pytestmark = pytest.mark.postgres
FILLED = {"accounts", "entries", "groups", "keys", "outbox", "reservations", "runs", "teams", "usage_sums"}
WITH_TEAM = [table for table in metadata.sorted_tables if "team" in table.c]
OURS = [table for table in WITH_TEAM if table.name not in UNTOUCHED]


@pytest.fixture
async def two_teams(tmp_path: Path) -> AsyncIterator[Running]:
    """An allocator with rows of `blue` in every table, and a team `red`."""
    async with running(tmp_path, fresh_postgres()) as allocator:
        for team in ("red", "blue"):
            await allocator.new_key(team)
        engine = allocator.service.engine
        await engine.create_run("blue", RunSpec(run_id="r", policy="p"))
        await engine.open("blue", "r", OpenRequest(groups=[OpenGroup(group_id="g", prompt_key="k")]))
        await engine.observe("blue", "r", ObserveRequest(groups=[ObserveGroup(group_id="g", outcomes=[1.0])]))
        await engine.close("blue", "r", CloseRequest(groups=[CloseGroup(group_id="g", used=1, outcomes=[1.0])]))
        yield allocator


async def sees(connection: AsyncConnection, table: Table) -> int:
    return int(await connection.scalar(select(func.count()).select_from(table)) or 0)


async def refused(connection: AsyncConnection, table: Table) -> bool:
    trial = await connection.begin_nested()
    try:
        await sees(connection, table)
    except DBAPIError as error:
        return "permission denied" in str(error.orig)
    finally:
        await trial.rollback()
    return False


async def test_g14_every_table_with_a_team_is_behind_the_wall(two_teams: Running) -> None:
    """A table that a migration adds with a column `team` and without a policy fails here."""
    async with two_teams.service.database.transaction() as connection:
        query = "SELECT c.relname FROM pg_class c JOIN pg_policy p ON p.polrelid = c.oid WHERE c.relrowsecurity"
        assert set((await connection.execute(text(query))).scalars()) == {table.name for table in WITH_TEAM}


@pytest.mark.parametrize("table", WITH_TEAM, ids=lambda table: table.name)
async def test_g14_a_statement_without_a_filter_finds_no_foreign_row(two_teams: Running, table: Table) -> None:
    """Nothing of blue is seen, changed or deleted in red's transaction; without a team there is nothing at all."""
    async with two_teams.service.database.transaction() as connection:
        assert await sees(connection, table) > 0 or table.name not in FILLED
    async with two_teams.service.store.transaction("red") as transaction:
        if table.name in UNTOUCHED:
            assert await refused(transaction.connection, table)
            return
        connection = transaction.connection
        blue = table.c.team == "blue"
        assert await connection.scalar(select(func.count()).select_from(table).where(blue)) == 0
        if table.name not in {"entries", "changes"}:  # append-only for everybody
            assert (await connection.execute(update(table).values(team="red").where(blue))).rowcount == 0
            assert (await connection.execute(delete(table).where(blue))).rowcount == 0
        await connection.execute(text("SELECT set_config('rollout_budget.team', '', true)"))
        assert await sees(connection, table) == 0


async def test_g14_a_row_cannot_be_written_for_a_foreign_team(two_teams: Running) -> None:
    """Neither a new row nor one of red's own can be given to blue."""
    row = {"team": "blue", "run": "", "span": "day:2000-01-01"}
    with pytest.raises(DBAPIError, match="row-level security"):
        async with two_teams.service.store.transaction("red") as transaction:
            await transaction.connection.execute(insert(accounts), row)
    with pytest.raises(DBAPIError, match="row-level security"):
        async with two_teams.service.store.transaction("red") as transaction:
            await transaction.connection.execute(update(accounts).values(team="blue", run="theirs"))


async def test_g14_the_repository_without_its_filter_still_finds_nothing(
    two_teams: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`team = ...` is taken out of every statement of the store: blue's run and groups stay out of red's sight."""

    class NoTeam:
        """A column that is compared with nothing."""

        def __eq__(self, _other: object) -> ColumnElement[bool]:  # type: ignore[override]  # as SQLAlchemy's
            return true()

        __hash__ = None  # type: ignore[assignment]  # as SQLAlchemy's

    class Unfiltered:
        """A table whose column `team` filters nothing."""

        def __init__(self, table: Table) -> None:
            self.table = table
            self.c = self

        def __getattr__(self, name: str) -> object:
            return NoTeam() if name == "team" else getattr(self.table.c, name)

    unfiltered = Unfiltered(groups)
    found = select(runs).where(NoTeam() == "red", runs.c.run == "r")
    async with two_teams.service.store.transaction("blue") as transaction:
        assert len((await transaction.connection.execute(found)).all()) == 1
    async with two_teams.service.store.transaction("red") as transaction:
        assert (await transaction.connection.execute(found)).all() == []
        monkeypatch.setattr(store, "groups", unfiltered)
        everything = select(groups.c.group_id, groups.c.attempt, groups.c.record)
        monkeypatch.setattr(store, "GROUPS", dict.fromkeys(store.GROUPS, everything))
        assert await transaction.groups("red", "r", [GroupKey("g", 0)]) == {}
        assert await transaction.open_groups("red", "r") == []
    async with two_teams.service.store.transaction() as transaction:  # the filter is out indeed
        assert list(await transaction.groups("red", "r", [GroupKey("g", 0)])) == [GroupKey("g", 0)]


async def test_g14_the_role_ends_with_its_transaction(two_teams: Running) -> None:
    """A pooled connection keeps nothing of the team that used it last, after a rollback either."""
    for run_id in ("mine", "none"):
        with suppress(NotFound):
            async with two_teams.service.store.transaction("red") as transaction:
                assert await transaction.connection.scalar(text("SELECT current_user")) == ROLE
                if run_id == "none":
                    await transaction.run("red", run_id)
        async with two_teams.service.store.transaction() as transaction:
            assert await transaction.connection.scalar(text("SELECT current_user")) != ROLE
            assert await sees(transaction.connection, runs) == 1


@pytest.fixture
def poor_database() -> Iterator[tuple[str, str]]:
    """A database whose owner may not create roles: its URL, and the name of the owner."""
    admin, name = make_url(server_url()), f"poor_{secrets.token_hex(6)}"
    with psycopg.connect(admin.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'".encode())
        connection.execute(f"CREATE DATABASE {name} OWNER {name}".encode())
    yield admin.set(database=name, username=name, password=name).render_as_string(hide_password=False), name
    with psycopg.connect(admin.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        connection.execute(f"DROP ROLE {name}".encode())


async def test_g14_a_user_that_may_not_have_roles_goes_on_without_and_says_so(poor_database: tuple[str, str]) -> None:
    """The migration warns, the service works and reports no wall; once the role is granted, the next migration mends it."""
    url, user = poor_database
    fresh_postgres()  # the role is there, of another database: this user may not take it on
    stands: list[bool] = []
    seconds = 0.0
    engine = connect(migrated(url))
    poor = store.SqlStore(Database(engine), wall=Wall(stands.append, lambda: seconds))
    for _ in range(2):
        async with poor.transaction("red") as transaction:
            assert await transaction.connection.scalar(text("SELECT current_user")) == user
    assert stands == [False]
    with psycopg.connect(server_url(), autocommit=True) as connection:
        connection.execute(f"GRANT {ROLE} TO {user}".encode())
    migrated(url)
    seconds += wall.LOOK_AGAIN_S
    async with poor.transaction("red") as transaction:
        assert await transaction.connection.scalar(text("SELECT current_user")) == ROLE
    assert stands == [False, True]
    await engine.dispose()


async def test_g14_a_downgrade_takes_the_wall_down(postgres_url: str) -> None:
    """And an upgrade puts it up again; the role itself is the server's and stays."""
    engine = connect(migrated(postgres_url))
    policies = text("SELECT count(*) FROM pg_policies")
    await migrate.downgrade(engine, "0004")
    async with engine.begin() as connection:
        assert await connection.scalar(policies) == 0
    await migrate.upgrade(engine)
    async with engine.begin() as connection:
        assert await connection.scalar(policies) == len(WITH_TEAM)
    await engine.dispose()
