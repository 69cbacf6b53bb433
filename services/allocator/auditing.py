"""The rounds of the auditor while the service runs: a quick one each minute, a full one each day (G2).

A quick round folds what is new of every team that booked something into its balances, then compares counters with
balances in one statement that reads no other entry. What looks wrong there, or was suspended, is judged team by team, in
a transaction of that team's own: no transaction writes for two teams. Each process does its own rounds; two of them at
once find the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rollout_budget.errors import Unavailable
from rollout_budget.ledger.base import Discrepancy
from services.allocator.database import balances
from services.allocator.database.audit import audit, differences
from services.kit.session import Database

FULL_EVERY_S = 86_400.0
"""Pause between two readings of every entry; the first round of a process is one."""


class Auditor:
    """Audits one database; owns no task.

    Args:
        database: which.
        clock: monotonic seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._full_at = clock()
        self._seen = 0

    async def round(self) -> list[Discrepancy]:
        """Do one round; return every counter that differs."""
        full = self._clock() >= self._full_at
        async with self._database.snapshot() as connection:
            newest = await balances.newest(connection)
            teams = await balances.active(connection, self._seen)
        folded = [await self._fold(team) for team in teams]
        async with self._database.snapshot() as connection:
            suspects = await differences(connection, None, full=full, floor=self._seen)
        found: list[Discrepancy] = []
        for team in sorted({team for team, _, _ in suspects}):
            async with self._database.transaction() as connection:
                found += await audit(connection, team, full=full)
        if all(folded):
            self._seen = newest
        if full:
            self._full_at = self._clock() + FULL_EVERY_S
        return found

    async def _fold(self, team: str) -> bool:
        """Fold one team's entries; say whether its row was to be had in time. A busy team waits for the next round.

        Many entries, as after an upgrade, are folded in pieces: between two of them the team's requests have their turn.
        """
        done = False
        try:
            while not done:
                async with self._database.transaction() as connection:
                    done = await balances.fold(connection, team)
        except Unavailable:
            return False
        return True
