"""The allocator's protocol as a trainer sees it. The REST client, its fallback and the in-process allocator all obey it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rollout_budget.wire import (
    BaselinesAnswer,
    BaselinesRequest,
    BudgetView,
    CloseAnswer,
    CloseRequest,
    DecideAnswer,
    DecideRequest,
    Dimension,
    EntriesAnswer,
    EntryKind,
    HeartbeatAnswer,
    ObserveAnswer,
    ObserveRequest,
    OpenAnswer,
    OpenRequest,
    PlanAnswer,
    PlanRequest,
    ReservationView,
    Run,
    RunPatch,
    RunSpec,
    UsageAnswer,
    UsageQuery,
)


class Allocator(Protocol):
    """One team's view of an allocator. Every call is safe to repeat with the same ids and the same body."""

    async def create_run(self, spec: RunSpec) -> Run:
        """Declare a run (`POST /v1/runs`)."""
        ...

    async def get_run(self, run_id: str) -> Run:
        """Return a run with its usage and what it has learned of its prior."""
        ...

    async def patch_run(self, run_id: str, patch: RunPatch) -> Run:
        """Change price or limits of a run."""
        ...

    async def finish_run(self, run_id: str) -> Run:
        """End a run: what is still held goes back; no new grants."""
        ...

    async def plan(self, run_id: str, request: PlanRequest) -> PlanAnswer:
        """Choose which of some candidate prompts to open, within a budget."""
        ...

    async def open(self, run_id: str, request: OpenRequest) -> OpenAnswer:
        """Open groups: frozen priors and first grants."""
        ...

    async def observe(self, run_id: str, request: ObserveRequest) -> ObserveAnswer:
        """Send all outcomes so far; get decisions, baselines and advantages."""
        ...

    async def close(self, run_id: str, request: CloseRequest) -> CloseAnswer:
        """Commit what was used, release the rest, turn outcomes into evidence."""
        ...

    async def heartbeat(self, run_id: str) -> HeartbeatAnswer:
        """Renew all leases of a run."""
        ...

    async def baselines(self, run_id: str, request: BaselinesRequest) -> BaselinesAnswer:
        """Return the last baselines of groups by id."""
        ...

    async def decide(self, request: DecideRequest) -> DecideAnswer:
        """Decide without a run and without a ledger."""
        ...

    async def budget(self) -> BudgetView:
        """Return the team's limits and usage."""
        ...

    async def usage(self, by: Sequence[Dimension] = ("team",), query: UsageQuery | None = None) -> UsageAnswer:
        """Return the team's usage, grouped by these dimensions, of all that `query` selects: its first page or another."""
        ...

    async def entries(
        self, kind: EntryKind | None = None, run_id: str | None = None, *, after: int = 0, limit: int = 100
    ) -> EntriesAnswer:
        """Return a page of the ledger's record in the order of writing; `after` is the `next` of the page before."""
        ...

    async def reservation(self, reservation_id: str) -> ReservationView:
        """Return what became of a grant."""
        ...
