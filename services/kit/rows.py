"""Many rows in one statement: written from plain sequences, found by a list of keys.

PostgreSQL gets them as one parameter of JSON, so a batch of any size is one round trip and one plan (JSON is written by C
code, arrays by psycopg's Python); SQLite runs its prepared statement once per row, without a hop between. The text of a
statement is made once per dialect. Names of tables and columns come from the tables, never from a request.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    JSON,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Select,
    Text,
    cast,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import Table
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


class Listed(TypeDecorator[Sequence[str]]):
    """A list of texts as one parameter of JSON."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> str:  # noqa: ARG002 - the same for all
        """Return what the driver sends."""
        return json.dumps(value)


class among(FunctionElement[bool]):  # noqa: N801 - reads as a function in SQL
    """`among(column, bindparam(..., type_=Listed()))`: whether a column is one of a list's texts, however long."""

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:  # noqa: ARG002 - the same everywhere
        """Return the same: it is a comparison already. SQLAlchemy would add `= 1` for SQLite, which then uses no index."""
        return self


def each_of(
    columns: Sequence[Column[Any]], where: ColumnElement[bool], key: Column[str], listed: BindParameter[Sequence[str]]
) -> Mapping[str, Select[Any]]:
    """Return, by dialect, the statement that selects the rows `where` holds and whose `key` is one of a list's texts.

    PostgreSQL looks each of them up by the whole key, whatever it knows of the table: of `among` it makes a pass over all
    rows of `where` before release 17, or while it has no statistics of them.
    """
    ids = func.json_array_elements_text(cast(listed, JSON)).table_valued("id", name="ids").render_derived()
    found = select(*columns).where(where, key == ids.c.id).offset(literal_column("0")).lateral("found")
    return {
        "sqlite": select(*columns).where(where, among(key, listed)),
        "postgresql": select(found).select_from(ids.join(found, true())),
    }


@compiles(among, "sqlite")
def _sqlite(element: among, compiler: Any, **options: Any) -> str:
    column, listed = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({listed}))"  # noqa: S608 - a column and a parameter


@compiles(among, "postgresql")
def _postgresql(element: among, compiler: Any, **options: Any) -> str:
    column, listed = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} = ANY(ARRAY(SELECT json_array_elements_text(CAST({listed} AS json))))"


async def write(
    connection: AsyncConnection,
    table: Table,
    names: tuple[str, ...],
    rows: Collection[Sequence[Any]],
    *,
    changed: tuple[str, ...] | None = None,
    adding: bool = False,
) -> None:
    """Insert rows.

    Args:
        connection: the transaction.
        table: where to.
        names: the columns, in the order of each row's values.
        rows: the values.
        changed: columns that take the new values where the primary key is there already; where it is empty, such a row is
            left as it is; where it is None, such a row is an error.
        adding: add the new values of `changed` to those that are there, instead.
    """
    if not rows:
        return
    lite = connection.dialect.name == "sqlite"
    statement = _insertion(table, names, changed, adding=adding, lite=lite)
    if lite:
        await connection.exec_driver_sql(statement, [tuple(row) for row in rows])
    else:
        await connection.exec_driver_sql(statement, (_json(names, rows),))


async def change(
    connection: AsyncConnection,
    table: Table,
    keys: tuple[str, ...],
    names: tuple[str, ...],
    rows: Collection[Sequence[Any]],
    *,
    only: tuple[str, str],
) -> None:
    """Change rows: each is found by `keys`, and only where it still has a value.

    The caller holds a lock that keeps other writers from these rows: on PostgreSQL one that another transaction changes
    meanwhile, in whatever column, is left as it is.

    Args:
        connection: the transaction.
        table: where.
        keys: the columns that find a row.
        names: the columns that change.
        rows: the values, those of `names` first, then those of `keys`.
        only: a column, not one that may be null, and the value that it has where a row is changed at all.
    """
    if not rows:
        return
    lite = connection.dialect.name == "sqlite"
    statement = _update(table, keys, names, only[0], lite=lite)
    if lite:
        await connection.exec_driver_sql(statement, [(*row, only[1]) for row in rows])
    else:
        await connection.exec_driver_sql(statement, (_json((*names, *keys), rows), only[1]))


@lru_cache(maxsize=64)
def _update(table: Table, keys: tuple[str, ...], names: tuple[str, ...], only: str, *, lite: bool) -> str:
    if lite:
        found = " AND ".join(f"{_quoted(key)} = ?" for key in (*keys, only))
        return f"UPDATE {table.name} SET {', '.join(f'{_quoted(name)} = ?' for name in names)} WHERE {found}"  # noqa: S608 - names of ours
    columns = (*names, *keys)
    found = " AND ".join(f"{_quoted(key)} = new.{_quoted(key)}" for key in keys)
    # each row is looked up by its whole key: a join read all rows of a partial index once for each of ours
    return (
        f"UPDATE {table.name} SET {', '.join(f'{_quoted(name)} = new.{_quoted(name)}' for name in names)} "  # noqa: S608
        f"FROM (SELECT new.*, here.place FROM {_recordset(table, columns)} CROSS JOIN LATERAL "
        f"(SELECT ctid AS place FROM {table.name} WHERE {found} AND {_quoted(only)} = (SELECT %s) OFFSET 0) AS here) AS new "
        f"WHERE {table.name}.ctid = new.place"
    )


def _recordset(table: Table, names: tuple[str, ...]) -> str:
    columns = ", ".join(f"{_quoted(name)} {table.columns[name].type.compile(_POSTGRESQL)}" for name in names)
    return f"json_to_recordset(%s::json) AS new ({columns})"


def _json(names: tuple[str, ...], rows: Collection[Sequence[Any]]) -> str:
    return json.dumps([dict(zip(names, row, strict=True)) for row in rows])


@lru_cache(maxsize=64)
def _insertion(
    table: Table, names: tuple[str, ...], changed: tuple[str, ...] | None, *, adding: bool, lite: bool
) -> str:
    values = f"VALUES ({', '.join('?' * len(names))})" if lite else f"SELECT * FROM {_recordset(table, names)}"  # noqa: S608 - names of ours
    return f"INSERT INTO {table.name} ({', '.join(map(_quoted, names))}) {values}{_conflict(table, changed, adding=adding)}"


def _conflict(table: Table, changed: tuple[str, ...] | None, *, adding: bool) -> str:
    if changed is None:
        return ""
    if not changed:
        return " ON CONFLICT DO NOTHING"
    key = ", ".join(_quoted(column.name) for column in table.primary_key)
    before = f"{table.name}.{{0}} + " if adding else ""
    new = ", ".join(f"{one} = {before.format(one)}excluded.{one}" for one in map(_quoted, changed))
    return f" ON CONFLICT ({key}) DO UPDATE SET {new}"


def _quoted(name: str) -> str:
    return f'"{name}"'
