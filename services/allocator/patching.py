"""A run's limits and price, changed by its team and logged in the same transaction.

The change itself is the engine's; this module joins it and the line in the log of changes into one transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rollout_budget.engine import Engine, HistoryPrior
from rollout_budget.wire import Run, RunPatch, RunSpec
from services.allocator.database.changes import Changes
from services.allocator.database.store import SqlStore, SqlTransaction
from services.allocator.identity import Identity


class Joined:
    """A store that is one open transaction: whoever uses it commits nothing alone."""

    def __init__(self, transaction: SqlTransaction) -> None:
        self._transaction = transaction

    @asynccontextmanager
    async def transaction(self, team: str | None = None) -> AsyncIterator[SqlTransaction]:
        """Enter the transaction that is open already."""
        del team  # it is about this team already
        yield self._transaction


async def patch_run(store: SqlStore, key: Identity, run_id: str, patch: RunPatch) -> Run:
    """Change price or limits of a run of the key's team, and log what stood before and what stands now.

    Raises:
        NotFound: this team has no such run.
    """
    async with store.transaction(key.team) as transaction:
        before = (await transaction.run(key.team, run_id, lock=True)).spec
        run = await Engine(Joined(transaction), HistoryPrior()).patch_run(key.team, run_id, patch)  # asks for no prior
        changes = Changes(transaction.connection, key)
        await changes.record("run.patched", key.team, f"run:{run_id}", _patchable(before), _patchable(run.spec))
        return run


def _patchable(spec: RunSpec) -> RunPatch:
    return RunPatch.model_validate(spec.model_dump(include=set(RunPatch.model_fields)))
