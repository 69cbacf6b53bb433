"""One process of a delivery test: it carries the outbox to a prior source that keeps ids in a file.

It says so and waits in the middle of a batch, when the batch has arrived and the outbox does not know it yet.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rollout_budget.engine import Engine, HistoryPrior
from rollout_budget.wire import EvidenceRow
from services.allocator.database.store import SqlStore
from services.allocator.database.turns import EVIDENCE, turn
from services.kit.database import connect
from services.kit.session import Database


class Stuck(HistoryPrior):
    """Writes down what arrives, and never says that it did."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        """See `PriorSource`."""
        del team, policy
        self._file.write_text("".join(f"{row.id}\n" for row in rows))
        print("arrived", flush=True)  # noqa: T201  read by the test
        await asyncio.Event().wait()


async def carry(url: str, file: Path) -> None:
    """Do one round."""
    engine = connect(url)
    async with turn(engine, EVIDENCE) as ours:
        assert ours
        await Engine(SqlStore(Database(engine)), Stuck(file)).deliver_evidence()


if __name__ == "__main__":
    asyncio.run(carry(sys.argv[1], Path(sys.argv[2])))
