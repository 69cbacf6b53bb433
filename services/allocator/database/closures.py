"""Teams that are closed: they have a row here, with the limits that they have again once they are reopened.

What a closed team may not do is `directory`'s and `keyring`'s. Whoever closes a team holds the lock of its row in `teams`
until it commits; whoever must not meet a team that is being closed takes that lock first, then asks here.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Double, Row, String, Table, Text, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.wire import TeamLimits
from services.allocator.database.clock import now_s
from services.allocator.database.tables import ID, metadata
from services.allocator.errors import TeamClosed

closures = Table(
    "closures",
    metadata,
    Column("team", String(ID), primary_key=True),
    Column("closed_s", Double, nullable=False),
    Column("limits_before", Text, nullable=False),
)


async def require_open(connection: AsyncConnection, team: str) -> None:
    """Refuse a team that is closed.

    Raises:
        TeamClosed: it is.
    """
    if await find(connection, team) is not None:
        raise TeamClosed(f"team {team!r} is closed; reopen it first, and it has its former limits")


async def find(connection: AsyncConnection, team: str) -> Row[Any] | None:
    """Return the row of a team that is closed; None of one that is open."""
    return (await connection.execute(select(closures).where(closures.c.team == team))).one_or_none()


async def close(connection: AsyncConnection, team: str, limits: TeamLimits) -> None:
    """Say that a team is closed from now on, and which limits it had."""
    row = {"team": team, "closed_s": now_s(), "limits_before": limits.model_dump_json()}
    await connection.execute(insert(closures).values(row))


async def reopen(connection: AsyncConnection, team: str) -> None:
    """Say that a team is open again."""
    await connection.execute(delete(closures).where(closures.c.team == team))
