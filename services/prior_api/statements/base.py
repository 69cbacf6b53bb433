"""What all statements share: a connection inside a transaction that somebody else commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from services.kit.session import insert


class Statements:
    """Statements on one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def _add_new(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            await self._connection.execute(insert(self._connection, table).on_conflict_do_nothing(), rows)

    async def _upsert(
        self, table: Table, rows: Sequence[Mapping[str, Any]], *, add: Sequence[str] = (), replace: Sequence[str] = ()
    ) -> None:
        """Insert rows; where one is there already, add to these columns and replace those."""
        if rows:
            statement = insert(self._connection, table)
            changes = {name: table.c[name] + statement.excluded[name] for name in add}
            changes |= {name: statement.excluded[name] for name in replace}
            keys = [column.name for column in table.primary_key]
            await self._connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changes), rows)
