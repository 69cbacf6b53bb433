"""The second wall between teams, on PostgreSQL: a role that sees the rows of one team and no others (G14).

The role cannot log in. A transaction about one team takes it on for its own length, together with the team's name
(`database/wall.py`); a statement that forgot to name the team then finds this team's rows or none. Owners of tables are
not bound by policies: migrations, background work and releases before this one go on as they were.

A role belongs to the whole server, not to one database: it is made once, kept by a downgrade, and has rights only on
what each database grants to it. SQLite has no roles.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

ROLE = "rollout_budget_tenant"
TEAM = "rollout_budget.team"
"""The setting that names the team of a transaction."""
UNTOUCHED = frozenset({"archived_sums", "archives", "balances", "checkpoints", "closures", "keys", "teams"})
"""Tables with a team that no transaction about one team needs: the role has no right to them at all."""

READ_ONLY = frozenset({"restores"})
"""Tables of no team that such a transaction reads."""
_SEQUENCES = """
SELECT pg_get_serial_sequence(quote_ident(table_name), column_name) FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = :table AND column_default LIKE 'nextval(%'
"""
_LOCK = 0x77616C6C
_log = logging.getLogger("services.allocator.migrations")


def raise_wall(connection: Connection, tables: Collection[str] | None = None) -> None:
    """Put policies on these tables, or on all that have a column `team` and none yet.

    Where the user may not create roles, or not take this one on, nothing is done but a warning: an administrator may
    run `CREATE ROLE rollout_budget_tenant NOLOGIN; GRANT rollout_budget_tenant TO <user of the service>`; the next
    `migrate` then puts the wall up.
    """
    if connection.dialect.name != "postgresql":
        return
    missing = missing_in(connection) if tables is None else set(tables)
    if not missing:
        return
    if not _have_role(connection):
        _log.warning(
            "no second wall between teams: the database's user may not create or take on the role %s; see "
            "docs/operations.md",
            ROLE,
        )
        return
    connection.execute(text(f"GRANT USAGE ON SCHEMA {_schema(connection)} TO {ROLE}"))
    for table in sorted(missing):
        _protect(connection, table)
    for table in sorted(READ_ONLY):
        connection.execute(text(f'GRANT SELECT ON "{table}" TO {ROLE}'))


def missing_in(connection: Connection) -> set[str]:
    """Return the tables that have a column `team` and no policy yet."""
    return _with_team(connection) - _protected(connection)


def take_down(connection: Connection, tables: Collection[str] | None = None) -> None:
    """Take policies and rights away again."""
    if connection.dialect.name != "postgresql" or not _role_exists(connection):
        return
    for table in sorted(_with_team(connection) if tables is None else set(tables)):
        connection.execute(text(f'DROP POLICY IF EXISTS one_team ON "{table}"'))
        connection.execute(text(f'ALTER TABLE "{table}" DISABLE ROW LEVEL SECURITY'))
        connection.execute(text(f'REVOKE ALL ON "{table}" FROM {ROLE}'))
        for sequence in connection.execute(text(_SEQUENCES), {"table": table}).scalars():
            connection.execute(text(f"REVOKE ALL ON SEQUENCE {sequence} FROM {ROLE}"))
    for table in sorted(READ_ONLY if tables is None else ()):
        connection.execute(text(f'REVOKE ALL ON "{table}" FROM {ROLE}'))
    if tables is None:
        connection.execute(text(f"REVOKE ALL ON SCHEMA {_schema(connection)} FROM {ROLE}"))


def _protect(connection: Connection, table: str) -> None:
    ours = f"team = nullif(current_setting('{TEAM}', true), '')"
    connection.execute(text(f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY'))
    connection.execute(text(f'DROP POLICY IF EXISTS one_team ON "{table}"'))
    connection.execute(text(f'CREATE POLICY one_team ON "{table}" TO {ROLE} USING ({ours}) WITH CHECK ({ours})'))
    if table in UNTOUCHED:
        return
    connection.execute(text(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "{table}" TO {ROLE}'))
    for sequence in connection.execute(text(_SEQUENCES), {"table": table}).scalars():
        connection.execute(text(f"GRANT USAGE ON SEQUENCE {sequence} TO {ROLE}"))


def _have_role(connection: Connection) -> bool:
    """Make the role and take it on, each in a savepoint; say whether both went."""
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))  # other databases of the server may do the same
    if not _role_exists(connection) and not _allowed(connection, f"CREATE ROLE {ROLE} NOLOGIN"):
        return False
    if _allowed(connection, f"SET LOCAL ROLE {ROLE}", "RESET ROLE"):
        return True
    return _allowed(connection, f"GRANT {ROLE} TO CURRENT_USER", f"SET LOCAL ROLE {ROLE}", "RESET ROLE")


def _allowed(connection: Connection, *statements: str) -> bool:
    try:
        with connection.begin_nested():
            for statement in statements:
                connection.execute(text(statement))
    except DBAPIError:  # insufficient privilege, or made in another database at this moment
        return False
    return True


def _role_exists(connection: Connection) -> bool:
    return connection.scalar(text("SELECT true FROM pg_roles WHERE rolname = :role"), {"role": ROLE}) is not None


def _schema(connection: Connection) -> str:
    return str(connection.scalar(text("SELECT quote_ident(current_schema())")))


def _with_team(connection: Connection) -> set[str]:
    look = inspect(connection)
    return {
        table for table in look.get_table_names() if any(column["name"] == "team" for column in look.get_columns(table))
    }


def _protected(connection: Connection) -> set[str]:
    found = "SELECT tablename FROM pg_policies WHERE policyname = 'one_team' AND schemaname = current_schema()"
    return set(connection.scalars(text(found)))
