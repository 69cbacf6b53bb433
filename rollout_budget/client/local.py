"""The allocator with no server: the whole protocol in this process, on memory.

    from rollout_budget.client.local import SyncLocalAllocator
    from rollout_budget.wire import *

    allocator = SyncLocalAllocator()
    allocator.create_run(RunSpec(run_id="first", policy="mine"))
    opened = allocator.open("first", OpenRequest(groups=[OpenGroup(group_id="g0", prompt_key="p0")]))
    outcomes = [1.0, 0.0, 0.0, 1.0, 0.0]  # draw opened.groups[0].grant rollouts and verify them
    decision = allocator.observe("first", ObserveRequest(groups=[ObserveGroup(group_id="g0", outcomes=outcomes)])).groups[0]
    print(decision.action, decision.more, decision.advantages)
    allocator.close("first", CloseRequest(groups=[CloseGroup(group_id="g0", used=len(outcomes))]))

Owns the wiring only; the rules are the engine's, which the service runs too. Nothing is stored beyond the process, and
nothing is forgotten within it, so that every request can be repeated: some 8 KB per group of 12 rollouts. A run of
millions of groups wants the service, which keeps them in a file.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from rollout_budget.engine import Engine, HistoryPrior, MemoryStore
from rollout_budget.engine.ports import PriorSource
from rollout_budget.ledger.memory import Clock
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
    TeamLimits,
    UsageAnswer,
    UsageQuery,
)

T = TypeVar("T")


class LocalAllocator:
    """Obeys `rollout_budget.client.base.Allocator` in process.

    Args:
        team: name that usage is booked under.
        priors: where priors come from; by default each prompt's own discounted history (`HistoryPrior`).
        limits: the team's limits; none by default.
        clock: seconds since the epoch that never run backwards, for leases and days.
    """

    def __init__(
        self,
        team: str = "local",
        priors: PriorSource | None = None,
        limits: TeamLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._team = team
        self._engine = Engine(MemoryStore(clock), priors or HistoryPrior())
        if limits is not None:
            run_now(self._engine.set_team_limits(team, limits))

    def sync(self) -> SyncLocalAllocator:
        """Return the same allocator for callers without an event loop."""
        return SyncLocalAllocator(self)

    async def create_run(self, spec: RunSpec) -> Run:
        """See `Allocator`."""
        return await self._engine.create_run(self._team, spec)

    async def get_run(self, run_id: str) -> Run:
        """See `Allocator`."""
        return await self._engine.get_run(self._team, run_id)

    async def patch_run(self, run_id: str, patch: RunPatch) -> Run:
        """See `Allocator`."""
        return await self._engine.patch_run(self._team, run_id, patch)

    async def finish_run(self, run_id: str) -> Run:
        """See `Allocator`."""
        run = await self._engine.finish_run(self._team, run_id)
        await self._engine.deliver_evidence()
        return run

    async def plan(self, run_id: str, request: PlanRequest) -> PlanAnswer:
        """See `Allocator`."""
        return await self._engine.plan(self._team, run_id, request)

    async def open(self, run_id: str, request: OpenRequest) -> OpenAnswer:
        """See `Allocator`."""
        return await self._engine.open(self._team, run_id, request)

    async def observe(self, run_id: str, request: ObserveRequest) -> ObserveAnswer:
        """See `Allocator`."""
        return await self._engine.observe(self._team, run_id, request)

    async def close(self, run_id: str, request: CloseRequest) -> CloseAnswer:
        """See `Allocator`; the outcomes then go to the prior source, or wait for the next close if it is gone."""
        answer = await self._engine.close(self._team, run_id, request)
        await self._engine.deliver_evidence()
        return answer

    async def heartbeat(self, run_id: str) -> HeartbeatAnswer:
        """See `Allocator`."""
        return await self._engine.heartbeat(self._team, run_id)

    async def baselines(self, run_id: str, request: BaselinesRequest) -> BaselinesAnswer:
        """See `Allocator`."""
        return await self._engine.baselines(self._team, run_id, request)

    async def decide(self, request: DecideRequest) -> DecideAnswer:
        """See `Allocator`."""
        return await self._engine.decide(request)

    async def budget(self) -> BudgetView:
        """See `Allocator`."""
        return await self._engine.budget(self._team)

    async def usage(self, by: Sequence[Dimension] = ("team",), query: UsageQuery | None = None) -> UsageAnswer:
        """See `Allocator`."""
        return await self._engine.usage(self._team, by, query)

    async def entries(
        self, kind: EntryKind | None = None, run_id: str | None = None, *, after: int = 0, limit: int = 100
    ) -> EntriesAnswer:
        """See `Allocator`."""
        return await self._engine.entries(self._team, kind, run_id, after=after, limit=limit)

    async def reservation(self, reservation_id: str) -> ReservationView:
        """See `Allocator`."""
        return await self._engine.reservation(self._team, reservation_id)


class SyncLocalAllocator:
    """The same protocol without `await`. Its prior source must not wait for anything either, as `HistoryPrior`."""

    def __init__(self, allocator: LocalAllocator | None = None) -> None:
        self._allocator = allocator or LocalAllocator()

    def create_run(self, spec: RunSpec) -> Run:
        """See `Allocator`."""
        return run_now(self._allocator.create_run(spec))

    def get_run(self, run_id: str) -> Run:
        """See `Allocator`."""
        return run_now(self._allocator.get_run(run_id))

    def patch_run(self, run_id: str, patch: RunPatch) -> Run:
        """See `Allocator`."""
        return run_now(self._allocator.patch_run(run_id, patch))

    def finish_run(self, run_id: str) -> Run:
        """See `Allocator`."""
        return run_now(self._allocator.finish_run(run_id))

    def plan(self, run_id: str, request: PlanRequest) -> PlanAnswer:
        """See `Allocator`."""
        return run_now(self._allocator.plan(run_id, request))

    def open(self, run_id: str, request: OpenRequest) -> OpenAnswer:
        """See `Allocator`."""
        return run_now(self._allocator.open(run_id, request))

    def observe(self, run_id: str, request: ObserveRequest) -> ObserveAnswer:
        """See `Allocator`."""
        return run_now(self._allocator.observe(run_id, request))

    def close(self, run_id: str, request: CloseRequest) -> CloseAnswer:
        """See `LocalAllocator.close`."""
        return run_now(self._allocator.close(run_id, request))

    def heartbeat(self, run_id: str) -> HeartbeatAnswer:
        """See `Allocator`."""
        return run_now(self._allocator.heartbeat(run_id))

    def baselines(self, run_id: str, request: BaselinesRequest) -> BaselinesAnswer:
        """See `Allocator`."""
        return run_now(self._allocator.baselines(run_id, request))

    def decide(self, request: DecideRequest) -> DecideAnswer:
        """See `Allocator`."""
        return run_now(self._allocator.decide(request))

    def budget(self) -> BudgetView:
        """See `Allocator`."""
        return run_now(self._allocator.budget())

    def usage(self, by: Sequence[Dimension] = ("team",), query: UsageQuery | None = None) -> UsageAnswer:
        """See `Allocator`."""
        return run_now(self._allocator.usage(by, query))

    def entries(
        self, kind: EntryKind | None = None, run_id: str | None = None, *, after: int = 0, limit: int = 100
    ) -> EntriesAnswer:
        """See `Allocator`."""
        return run_now(self._allocator.entries(kind, run_id, after=after, limit=limit))

    def reservation(self, reservation_id: str) -> ReservationView:
        """See `Allocator`."""
        return run_now(self._allocator.reservation(reservation_id))


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine that never waits to its end, without an event loop.

    Raises:
        RuntimeError: it did wait for something.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("this call waits for something (a prior source over a network?): use LocalAllocator with await")
