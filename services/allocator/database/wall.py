"""The second wall between teams on PostgreSQL: each transaction about one team runs as a role that sees it alone (G14).

The role and its policies are a migration's (`migrations/second_wall.py`). Here is how a transaction takes them on: role
and team are set for its own length, in one message with its BEGIN, so that it costs no round trip. Where there is no
such role, or this user may not take it on, the first wall stands alone, and the log says so. SQLite has no roles.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.errors import Unavailable
from services.allocator.migrations.second_wall import ROLE, TEAM

LOOK_AGAIN_S = 60.0
"""Pause before a wall that was not there is looked for again: an administrator may have granted the role meanwhile."""
_ENTER = (
    f"SELECT set_config('role', '{ROLE}', true), set_config('{TEAM}', %s, true), "
    "set_config('enable_seqscan', 'off', true)"
)
"""No statement about one team reads a whole table: a plan that was made while a table was tiny would go on doing so."""
_STANDS = """
SELECT EXISTS (
    SELECT 1 FROM pg_policies WHERE policyname = 'one_team' AND schemaname = current_schema() AND tablename = 'runs'
)
"""
_log = structlog.get_logger(__name__)


class Wall:
    """Knows whether this database has the wall, and puts transactions behind it.

    Args:
        told: told whenever it was looked for, whether it is there.
        clock: monotonic seconds.
    """

    def __init__(
        self, told: Callable[[bool], None] = lambda _stands: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._told = told
        self._clock = clock
        self._stands = False
        self._look_at = 0.0

    async def enter(self, connection: AsyncConnection, team: str) -> None:
        """Let the rest of this transaction see the rows of one team only, where the database can do that.

        Raises:
            Unavailable: the database is away; nothing was stored.
        """
        if connection.dialect.name != "postgresql" or not await self._look(connection):
            return
        driver: psycopg.AsyncConnection[object] = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]  # it is psycopg's
        try:
            async with driver.pipeline():
                await driver.execute(_ENTER, (team,))
        except psycopg.OperationalError as error:
            raise Unavailable("the database is busy or away; nothing was stored") from error

    async def _look(self, connection: AsyncConnection) -> bool:
        """Return whether the wall stands: looked for until it is found, at most once in `LOOK_AGAIN_S`."""
        if self._stands or self._clock() < self._look_at:
            return self._stands
        self._stands = bool(await connection.scalar(text(_STANDS))) and await _may_enter(connection)
        self._look_at = self._clock() + LOOK_AGAIN_S
        self._told(self._stands)
        if not self._stands:
            _log.warning("no second wall between teams in this database: migrate it, or see docs/operations.md")
        return self._stands


async def _may_enter(connection: AsyncConnection) -> bool:
    """Take the role on and give it back."""
    trial = await connection.begin_nested()
    try:
        await connection.execute(text(f"SET LOCAL ROLE {ROLE}"))
    except DBAPIError:
        return False
    finally:
        await trial.rollback()
    return True
