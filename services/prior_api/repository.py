"""The storage of the prior service, on SQLite and PostgreSQL. One transaction per request: it commits whole or not at all.

Rows are written in key order, so that two requests never wait for each other in a circle. What only reads takes a
snapshot, which waits for no writer and keeps none waiting.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from services.kit.session import Database
from services.prior_api import upgrade
from services.prior_api.statements.evidence import Evidence
from services.prior_api.statements.learning import Learning
from services.prior_api.statements.prompts import Prompts


class Transaction(Prompts, Evidence, Learning):
    """The statements of the service; valid inside `Repository.begin()`, those that read inside `snapshot()` too."""


class Repository:
    """Opens transactions on one engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._database = Database(engine)

    async def create_tables(self) -> None:
        """Make what is missing, and bring older tables to this version.

        Raises:
            ValueError: the tables are of a newer version than this code.
        """
        async with self._engine.begin() as connection:
            await upgrade.upgrade(connection)

    async def dispose(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """Enter a transaction; commits at the end of the block, rolls back if it raises.

        Raises:
            Unavailable: the database cannot be reached, or a lock was not had in time.
        """
        async with self._database.transaction() as connection:
            yield Transaction(connection)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        """Enter a transaction that reads one state of the database.

        Raises:
            Unavailable: the database cannot be reached.
        """
        async with self._database.snapshot() as connection:
            yield Transaction(connection)
