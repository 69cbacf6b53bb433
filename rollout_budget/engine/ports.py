"""The engine's two doors to the world: storage with its ledger in one transaction, and a source of priors.

In memory both are trivial; the allocator service puts SQLite or PostgreSQL and the prior service's client behind them.
The engine itself owns no clock, no socket and no database.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rollout_budget.engine.records import GroupKey, GroupRecord, PlanRecord, RunRecord
from rollout_budget.ledger.base import Ledger
from rollout_budget.wire import EvidenceRow, PriorModel, Prompt, ValuesAnswer

Answer = TypeVar("Answer")
PolicyOwner = tuple[str, str]
"""Team and policy: what one delivery of evidence is about."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence rows that wait for delivery to the prior service (an outbox entry)."""

    id: str
    team: str
    policy: str
    row: EvidenceRow

    @property
    def owner(self) -> PolicyOwner:
        """Whose outcomes these are."""
        return self.team, self.policy


class Transaction(Protocol):
    """Everything of one request happens in one of these, and commits or vanishes as a whole (G9)."""

    @property
    def ledger(self) -> Ledger:
        """The ledger inside this transaction."""
        ...

    async def add_run(self, record: RunRecord) -> RunRecord:
        """Store a new run, or return the one that has this id already (the caller compares the specs)."""
        ...

    async def run(self, team: str, run_id: str, *, lock: bool = False) -> RunRecord:
        """Return a run; with `lock`, no other transaction changes it until this one ends.

        Raises:
            NotFound: this team has no such run.
        """
        ...

    async def save_run(self, record: RunRecord) -> None:
        """Store a changed run."""
        ...

    async def groups(self, team: str, run_id: str, keys: Sequence[GroupKey]) -> dict[GroupKey, GroupRecord]:
        """Return those of the groups that exist."""
        ...

    async def latest_groups(self, team: str, run_id: str, group_ids: Sequence[str]) -> dict[str, GroupRecord]:
        """Return the highest attempt of each group id that exists."""
        ...

    async def open_groups(self, team: str, run_id: str) -> list[GroupRecord]:
        """Return all groups of a run that are not closed, in a stable order."""
        ...

    async def save_groups(self, team: str, run_id: str, records: Sequence[GroupRecord]) -> None:
        """Store new or changed groups."""
        ...

    async def plans(self, team: str, run_id: str, plan_ids: Sequence[str]) -> dict[str, PlanRecord]:
        """Return those of the plans that are kept."""
        ...

    async def add_plan(self, team: str, run_id: str, record: PlanRecord, keep: int) -> None:
        """Store a new plan, whose id is not kept; forget all but the `keep` newest of its run."""
        ...

    async def drop_plans(self, team: str, run_id: str) -> None:
        """Forget all plans of a run."""
        ...

    async def queue_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Put evidence into the outbox; an id that is there already is kept once."""
        ...

    async def pending_evidence(self, most: int, without: Collection[PolicyOwner] = ()) -> list[Evidence]:
        """Return the oldest undelivered evidence of all owners but those `without`."""
        ...

    async def evidence_delivered(self, ids: Sequence[str]) -> None:
        """Take delivered evidence out of the outbox."""
        ...


class Store(Protocol):
    """Opens transactions."""

    def transaction(self, team: str | None = None) -> AbstractAsyncContextManager[Transaction]:
        """Enter a transaction: commits at the end of the block, rolls back if the block raises.

        With a `team` it is about that team alone, and a store that can keeps all other teams' rows out of its sight.
        """
        ...


class Offload(Protocol):
    """Where large computations happen, so that whoever shares the event loop is not held up by them."""

    async def __call__(self, compute: Callable[[], Answer], size: int) -> Answer:
        """Return what `compute` returns; it is pure, and about `size` groups."""
        ...


async def here(compute: Callable[[], Answer], size: int) -> Answer:  # noqa: ARG001  whatever their size
    """Obey `Offload` without going anywhere: for a process that serves one trainer."""
    return compute()


class PriorSource(Protocol):
    """Where priors come from and evidence goes to. Unit scale."""

    async def values(
        self, team: str, policy: str, version: int, prompts: Sequence[Prompt], model: PriorModel
    ) -> ValuesAnswer:
        """Return one value per prompt; one that the source refuses has none, and `detail` says why.

        Raises:
            ServiceError: no answer within the deadline; the engine then degrades to the run's running mean.
        """
        ...

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        """Hand over evidence; safe to repeat.

        Raises:
            ServiceError: not delivered; it stays in the outbox.
        """
        ...
