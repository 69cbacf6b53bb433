"""The database that all replicas share: the in-memory store behind a network of its own.

A transaction may be cut off before it commits (nothing of it stays) or after (only the answer is lost), by a crash of
the replica, by an outage, or by a connection that breaks while the commit is on its way. Transactions follow one
another: isolation is the real databases' business, and tested there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rollout_budget.engine import MemoryStore
from rollout_budget.engine.memory import MemoryTransaction
from rollout_budget.errors import Unavailable
from tests.simulation.account import Account
from tests.simulation.weather import Weather

GIVE_UP_S = 5.0
"""Longest wait for a turn, as the service's own."""


class Database:
    """Obeys `Store`; `account` is told of each transaction at the moment in which it commits."""

    def __init__(self, now: Callable[[], float], weather: Weather, account: Account) -> None:
        self.inner = MemoryStore(now)
        self.away = False
        self._weather = weather
        self._account = account

    @asynccontextmanager
    async def transaction(self, team: str | None = None) -> AsyncIterator[MemoryTransaction]:
        """See `Store`."""
        await self._travel()
        opened = self.inner.transaction(team)
        try:
            async with asyncio.timeout(GIVE_UP_S):
                transaction = await opened.__aenter__()
        except TimeoutError:
            raise Unavailable("too many requests are waiting to write; nothing was stored") from None
        try:
            yield transaction
            await self._travel()
            await self._account.commit(transaction)
        except BaseException as error:
            try:
                await opened.__aexit__(type(error), error, error.__traceback__)
            finally:
                self._account.cut_off(transaction)
            raise
        else:
            await opened.__aexit__(None, None, None)
        if self._weather.strikes("commit lost"):
            raise Unavailable("the connection broke while the commit was on its way")
        await asyncio.sleep(self._weather.latency_s * self._weather.random.random())

    async def _travel(self) -> None:
        await asyncio.sleep(self._weather.latency_s * self._weather.random.random())
        if self.away:
            raise Unavailable("the database is busy or away; nothing was stored")
