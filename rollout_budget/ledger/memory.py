"""A ledger in this process's memory: the pure rules of `core` with a clock and an append-only record around them.

Owns the clock and the entries; decides nothing. Not for several processes, and gone when this one ends.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from rollout_budget.ledger import core
from rollout_budget.ledger.base import (
    EVERYTHING,
    Account,
    Ask,
    Discrepancy,
    Reservation,
    Selection,
    Settled,
    Settlement,
    Share,
)
from rollout_budget.ledger.books import Books, Entry, entry_view, usage_rows
from rollout_budget.wire import (
    BudgetView,
    Dimension,
    EntryKind,
    EntryView,
    LimitUse,
    RunLimits,
    TeamLimits,
    UsageRow,
)

Clock = Callable[[], float]
"""Seconds since the epoch; never runs backwards."""

Answer = TypeVar("Answer")


def steady_clock() -> Clock:
    """Return a clock that reads the wall once and then only the monotonic clock: setting the wall moves no lease."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


class MemoryLedger:
    """Obeys `Ledger`. `savepoint` and `rollback` are for whoever runs transactions around it."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._now = clock or steady_clock()
        self._books = Books()
        self._entries: list[Entry] = []
        self._warnings: Sequence[LimitUse] = ()

    def now(self) -> float:
        """Return the clock, seconds since 1970."""
        return self._now()

    def savepoint(self) -> tuple[Books, int]:
        """Return what `rollback` needs to come back to this moment."""
        return self._books, len(self._entries)

    def rollback(self, savepoint: tuple[Books, int]) -> None:
        """Undo everything since `savepoint`."""
        self._books, length = savepoint
        del self._entries[length:]

    async def open_account(self, account: Account, limits: RunLimits) -> None:
        """See `Ledger`."""
        self._books = core.open_account(self._books, account, limits)

    async def set_team_limits(self, team: str, limits: TeamLimits) -> None:
        """See `Ledger`."""
        self._books = core.set_team_limits(self._books, team, limits)

    async def reserve(self, account: Account, asks: Sequence[Ask], lease_s: float, share: Share) -> list[Reservation]:
        """See `Ledger`."""
        step = core.reserve(self._books, account, asks, lease_s, share, now=self._now())
        self._warnings = step.warnings
        return self._take(step)

    async def settle(self, account: Account, settlements: Sequence[Settlement]) -> list[Settled]:
        """See `Ledger`."""
        return self._take(core.settle(self._books, account, settlements, now=self._now()))

    async def renew(self, account: Account, lease_s: float, ids: Sequence[str] | None = None) -> int:
        """See `Ledger`."""
        return self._take(core.renew(self._books, account, lease_s, ids, now=self._now()))

    async def expire(self, account: Account | None = None) -> int:
        """See `Ledger`."""
        return self._take(core.expire(self._books, account, now=self._now()))

    async def available(self, account: Account, step: int | None = None) -> int | None:
        """See `Ledger`."""
        return core.available(self._books, account, step, now=self._now())

    def warnings(self) -> Sequence[LimitUse]:
        """See `Ledger`."""
        return self._warnings

    async def reservation(self, team: str, reservation_id: str) -> Reservation:
        """See `Ledger`."""
        return core.reservation(self._books, team, reservation_id, now=self._now())

    async def budget(self, team: str) -> BudgetView:
        """See `Ledger`."""
        return core.budget(self._books, team, now=self._now())

    async def usage(self, team: str | None, by: Sequence[Dimension], which: Selection = EVERYTHING) -> list[UsageRow]:
        """See `Ledger`."""
        return usage_rows(self._books.sums, team, by, which)

    async def entries(
        self, team: str, kind: EntryKind | None = None, run: str | None = None, *, after: int = 0, limit: int = 100
    ) -> list[EntryView]:
        """See `Ledger`; an entry's id is its place in the record, from 1."""
        numbered = enumerate(itertools.islice(self._entries, after, None), after + 1)
        mine = (
            entry_view(place, entry)
            for place, entry in numbered
            if entry.account.team == team and kind in {None, entry.kind} and run in {None, entry.account.run}
        )
        return list(itertools.islice(mine, limit))

    async def audit(self) -> list[Discrepancy]:
        """See `Ledger`."""
        return self._take(core.audit(self._books, self._entries))

    def _take(self, step: core.Step[Answer]) -> Answer:
        self._books = step.books
        self._entries.extend(step.entries)
        return step.answer
