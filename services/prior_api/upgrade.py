"""Makes the tables of the prior service, and brings those of older versions here: in one transaction, or not at all.

From 1 to 2: raw rows get their place in their policy, and the sums that requests read are added up from them; features
get the team whose text they are of. Stop processes of the older version first: the table of rows changes its name, so
that one that still runs fails instead of adding rows that the sums do not have.
"""

from __future__ import annotations

from sqlalchemy import Connection, Row, bindparam, func, inspect, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.wire import EvidenceRow
from services.kit.session import insert
from services.prior_api import schema, sharing
from services.prior_api.quality import scores_of
from services.prior_api.records import Policy
from services.prior_api.statements.evidence import Evidence

CHUNK = 8192
"""Rows added up between two reads: bounds the memory of an upgrade."""
_LOCK = 0x7072696F72
"""Key of PostgreSQL's advisory lock under which tables are made: two processes may start at once."""
_RENAME = (
    "DROP INDEX prior_prompts_text",
    "DROP INDEX prior_policies_scope",
    "DROP INDEX prior_evidence_version",
    "DROP INDEX prior_evidence_key",
    "ALTER TABLE prior_evidence RENAME TO prior_rows",
    "ALTER TABLE prior_rows ADD COLUMN serial BIGINT",
    "ALTER TABLE prior_rows ADD COLUMN public DOUBLE PRECISION",
    "ALTER TABLE prior_rows ADD COLUMN blur DOUBLE PRECISION",
)
_NUMBER = """
UPDATE prior_rows SET serial = numbered.place
FROM (
    SELECT team, policy, id, row_number() OVER (PARTITION BY team, policy ORDER BY id) AS place FROM prior_rows
) AS numbered
WHERE numbered.team = prior_rows.team AND numbered.policy = prior_rows.policy AND numbered.id = prior_rows.id
"""
_COPY = """
INSERT INTO prior_vectors (team, encoder, text_hash, vector)
SELECT DISTINCT prior_prompts.team, prior_features.encoder, prior_features.text_hash, prior_features.vector
FROM prior_features JOIN prior_prompts ON prior_prompts.text_hash = prior_features.text_hash
"""
_FILL = (_NUMBER, _COPY, "DROP TABLE prior_features")


async def upgrade(connection: AsyncConnection) -> None:
    """Apply what is missing.

    Raises:
        ValueError: the tables are of a newer version than this code.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        await connection.execute(text("SET LOCAL statement_timeout = 0"))
    version = await connection.run_sync(_version)
    if version is not None and version > schema.VERSION:
        raise ValueError(f"the prior's database is of version {version}, newer than this service's {schema.VERSION}")
    if version == schema.VERSION:
        return
    if version == 1:
        await _statements(connection, _RENAME)
    await connection.run_sync(_create)
    if version == 1:
        await _statements(connection, _FILL)
        await _add_up(connection)
    await connection.execute(insert(connection, schema.state), {"version": schema.VERSION})


def _version(connection: Connection) -> int | None:
    """Return the version of the tables, None if there are none."""
    tables = set(inspect(connection).get_table_names())
    if schema.state.name in tables:
        return int(connection.execute(select(func.max(schema.state.c.version))).scalar_one())
    return 1 if "prior_evidence" in tables else None


def _create(connection: Connection) -> None:
    schema.metadata.create_all(connection)
    for table in schema.metadata.sorted_tables:
        for index in table.indexes:
            index.create(connection, checkfirst=True)


async def _statements(connection: AsyncConnection, statements: tuple[str, ...]) -> None:
    for statement in statements:
        await connection.execute(text(statement))


async def _add_up(connection: AsyncConnection) -> None:
    """Fill the sums from the raw rows, policy by policy."""
    table = schema.policies
    policies = await connection.execute(select(table.c.team, table.c.policy, table.c.scope, table.c.rows))
    for row in policies.all():
        owner = Policy(*row)
        last = 0
        while rows := await _rows(connection, owner, last):
            await _add(connection, owner, rows)
            last = rows[-1].serial


async def _rows(connection: AsyncConnection, owner: Policy, since: int) -> list[Row[tuple[object, ...]]]:
    table = schema.evidence
    query = (
        select(table)
        .where(table.c.team == owner.team, table.c.policy == owner.policy, table.c.serial > since)
        .order_by(table.c.serial)
        .limit(CHUNK)
    )
    return list((await connection.execute(query)).all())


async def _add(connection: AsyncConnection, owner: Policy, rows: list[Row[tuple[object, ...]]]) -> None:
    evidence = Evidence(connection)
    bodies = [
        EvidenceRow.model_construct(
            id=row.id, key=row.key, version=row.version, successes=row.successes, trials=row.trials
        )
        for row in rows
    ]
    await evidence.add_cells(owner, bodies)
    await evidence.add_histories(owner, bodies)
    for row, body in zip(rows, bodies, strict=True):  # one at a time: rows of one prompt may have had other values
        if row.given is not None:
            await evidence.add_scores(owner, scores_of([body], {(row.version, row.key): row.given}))
    if owner.scope == "shared":
        await _make_public(connection, owner, bodies)


async def _make_public(connection: AsyncConnection, owner: Policy, rows: list[EvidenceRow]) -> None:
    table = schema.evidence
    mine = (table.c.team == owner.team, table.c.policy == owner.policy, table.c.id == bindparam("row"))
    noise = update(table).where(*mine).values(public=bindparam("noisy"), blur=sharing.variance(sharing.EPSILON))
    await connection.execute(
        noise, [{"row": row.id, "noisy": sharing.noisy(row.successes, sharing.EPSILON)} for row in rows]
    )
