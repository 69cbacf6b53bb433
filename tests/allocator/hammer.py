"""One process of a contention test: eight tasks reserve from one team's budget until it is gone; prints the sum.

It says `ready` and begins when its standard input ends, so that all processes begin together.
"""

from __future__ import annotations

import asyncio
import sys

from rollout_budget.errors import Unavailable
from rollout_budget.ledger.base import Account, Ask
from services.allocator.database.store import SqlStore
from services.kit.database import connect
from services.kit.session import Database

TASKS = 8


async def hammer(url: str, process: str) -> int:
    """Reserve three at a time, or what is left of three, until nothing is left."""
    engine = connect(url)
    store = SqlStore(Database(engine))

    async def task(index: int) -> int:
        account, total, got, turn = Account("team", f"run-{index % 4}"), 0, -1, 0
        while got != 0:
            try:
                async with store.transaction() as transaction:
                    ask = Ask(f"{process}-{index}-{turn}", 3)
                    held = await transaction.ledger.reserve(account, [ask], 600.0, lambda left: [min(3, left)])
            except Unavailable:  # the row was not had in time: as a client does, the same id again
                continue
            got, turn = held[0].rollouts, turn + 1
            total += got
        return total

    totals = await asyncio.gather(*(task(index) for index in range(TASKS)))
    await engine.dispose()
    return sum(totals)


if __name__ == "__main__":
    print("ready", flush=True)  # noqa: T201  read by the test
    sys.stdin.read()
    print(asyncio.run(hammer(sys.argv[1], sys.argv[2])))  # noqa: T201  read by the test
