"""After a restore from a backup: for how long nothing is granted, so that grants which the backup forgot can end.

What was granted after the backup was made is in no book, yet trainers go on drawing it until its leases end. Until then
nothing new is granted; leases are renewed, and use is committed, released, or booked as overage where it is not known.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, exists, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.allocator.database.clock import now_s
from services.allocator.database.tables import restores

MAX_LEASE_S = 86_400.0
"""The longest lease that a trainer may ask for."""


def withheld(clock_offset_s: float | ColumnElement[float]) -> ColumnElement[bool]:
    """Say, inside a statement, whether nothing is granted now."""
    return exists().where(restores.c.no_grants_until_s > now_s() + clock_offset_s)


async def declare(connection: AsyncConnection, for_s: float) -> None:
    """Withhold grants from now on for so many seconds, by the database's clock; a longer wait that is declared stays."""
    await connection.execute(insert(restores).values(at_s=now_s(), no_grants_until_s=now_s() + for_s))


async def left_s(connection: AsyncConnection) -> float:
    """Return for how many seconds nothing is granted yet; 0 if it is."""
    left = select(func.coalesce(func.max(restores.c.no_grants_until_s) - now_s(), 0.0))
    return max(0.0, float(await connection.scalar(left) or 0.0))
