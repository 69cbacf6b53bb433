"""Short ways to use a ledger in one transaction, and to find it in balance at the end (G2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rollout_budget.engine.ports import Store
from rollout_budget.ledger.base import Account, Ask, Ledger, Reservation, Settled, Settlement
from rollout_budget.wire import RolloutCounts, RunLimits, TeamLimits

RUN = Account("team", "run")
OTHER_RUN = Account("team", "other")
LEASE_S = 1000.0
DAY_S = 86_400.0


class PowerCut(Exception):
    """A transaction ends in the middle."""


@asynccontextmanager
async def using(store: Store) -> AsyncIterator[Ledger]:
    """Use the ledger in one transaction, and find it in balance at its end (G2)."""
    async with store.transaction() as transaction:
        yield transaction.ledger
        assert await transaction.ledger.audit() == []


async def set_up(store: Store, run: RunLimits | None = None, team: TeamLimits | None = None) -> None:
    """Open both runs of the team; the first has limits."""
    async with using(store) as ledger:
        await ledger.open_account(RUN, run or RunLimits())
        await ledger.open_account(OTHER_RUN, RunLimits())
        await ledger.set_team_limits("team", team or TeamLimits())


async def reserve(store: Store, *asks: Ask, account: Account = RUN, lease_s: float = LEASE_S) -> list[Reservation]:
    """Reserve in one transaction; what is left goes to the first asks first."""

    def first_come(left: int) -> list[int]:
        grants = []
        for ask in asks:
            grants.append(min(ask.rollouts, left))
            left -= grants[-1]
        return grants

    async with using(store) as ledger:
        return await ledger.reserve(account, asks, lease_s, first_come)


async def grants(store: Store, *asks: Ask, account: Account = RUN, lease_s: float = LEASE_S) -> list[int]:
    """Reserve, and return the grants alone."""
    return [item.rollouts for item in await reserve(store, *asks, account=account, lease_s=lease_s)]


async def settle(store: Store, used: int, *ids: str, reference: int = 0) -> Settled:
    """Settle one group in one transaction."""
    async with using(store) as ledger:
        return (await ledger.settle(RUN, [Settlement(ids, used, reference)]))[0]


async def state(store: Store, reservation_id: str) -> str:
    """Return where a reservation stands."""
    async with using(store) as ledger:
        return (await ledger.reservation("team", reservation_id)).state


async def counts(store: Store) -> RolloutCounts:
    """Return the team's counters."""
    async with using(store) as ledger:
        return (await ledger.budget("team")).usage
