"""An allocator that never stops a trainer: the service while it answers, the same rules in this process while not.

Owns the calls, their deadline and the telling of what was missed; what to tell is the `journal`'s, whether to ask the
`breaker`'s, what to decide meanwhile the `fallback`'s business. All three are pure.

While the service is away, groups finish within the rollouts that they hold, new ones get the first wave of their run's
rules, every answer says so (`degraded`, reason `local_fallback`), and no call waits for a service that is known to be
gone. When it is back, the next call first tells it what it missed. Of every group the ledger's `committed + overage`
then equals exactly the rollouts that the trainer drew, each once, whatever was lost on the way. A group that was once
decided here stays so until it is closed.

Failures of the service never reach the trainer through the calls of a training step. What does: `InvalidInput`,
`Conflict` and `NotFound`, which are the program's own; `Unauthorized` at `create_run`; and any failure of calls that
only the service can answer: `patch_run`, `budget`, `usage`, `reservation`, and `baselines` of groups unknown here. A
service whose `Unauthorized` is raised is not away: nothing is noticed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from rollout_budget.client import requests
from rollout_budget.client.base import Allocator
from rollout_budget.client.breaker import Breaker
from rollout_budget.client.fallback import Memory
from rollout_budget.client.journal import Close, Declare, Finish, Journal, Key, Open, Step
from rollout_budget.client.kept import KeptJournal
from rollout_budget.client.notices import Notice, warn
from rollout_budget.client.opening import open_there
from rollout_budget.engine.answers import prior_quality
from rollout_budget.engine.stateless import decide
from rollout_budget.errors import RolloutBudgetError, ServiceError, Unauthorized, Unavailable
from rollout_budget.wire import (
    BaselinesAnswer,
    BaselinesRequest,
    BudgetView,
    CloseAnswer,
    CloseRequest,
    DecideAnswer,
    DecideRequest,
    Decision,
    Dimension,
    EntriesAnswer,
    EntryKind,
    GroupBaselines,
    HeartbeatAnswer,
    ObserveAnswer,
    ObserveGroup,
    ObserveRequest,
    OpenAnswer,
    OpenRequest,
    PlanAnswer,
    PlanRequest,
    ReservationView,
    RolloutCounts,
    Run,
    RunPatch,
    RunSpec,
    UsageAnswer,
    UsageQuery,
)

A = TypeVar("A")

DEADLINE_S = 30.0
"""Longest wait for one answer, retries included: a fraction of a training step of any size."""
PROBE_DEADLINE_S = 3.0
"""Longest wait for a service that was away: a healthy one answers in milliseconds."""
OPENED_HERE = "opened here while the allocator was away"
PLANNED_HERE = "planned here while the allocator was away"


class ResilientAllocator:
    """Obeys `client.base.Allocator` on top of another one, usually an `AllocatorClient`, which stays its maker's to close.

    Args:
        client: the service.
        notify: called with every `Notice`; by default they are logged as warnings.
        deadline_s: longest wait for one answer.
        breaker: when to ask again; see `Breaker`.
        clock: a monotonic clock, seconds.
        journal: file for what the service was not told, so that it outlives this process; else it is in memory alone.
    """

    def __init__(
        self,
        client: Allocator,
        *,
        notify: Callable[[Notice], None] | None = None,
        deadline_s: float = DEADLINE_S,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
        journal: Path | None = None,
    ) -> None:
        self._client = client
        self._notify = notify or warn
        self._deadline_s = deadline_s
        self._breaker = breaker or Breaker()
        self._clock = clock
        self._journal = Journal() if journal is None else KeptJournal(journal)
        self._memories: dict[str, Memory] = {}
        self._telling = asyncio.Lock()
        self._behind = self._journal.has_untold
        self._near: set[str] = set()
        self.fallback_total = 0
        """Calls that were answered here."""
        self.fallback_reason = ""
        """Why the service is away, and the id of the request that found it so; empty while it is there."""

    @property
    def degraded(self) -> bool:
        """Whether the service counts as away now."""
        return self._breaker.is_open

    @property
    def unreported(self) -> int:
        """Rollouts of closed groups that the service has not booked yet."""
        return self._journal.unreported

    async def flush(self) -> bool:
        """Tell the service what it missed, now, even if it was away a moment ago; say whether it knows all."""
        self._breaker = self._breaker.due()
        await self._catch_up()
        return not self._behind

    async def create_run(self, spec: RunSpec) -> Run:
        """Declare a run, or remember to."""
        await self._catch_up()
        run = await self._ask(partial(self._client.create_run, spec), raising=Unauthorized)
        self._journal.declare(spec, known=run is not None)
        self._memories.setdefault(spec.run_id, Memory(spec))
        self._behind |= run is None
        return run or self._here(self._sketch(spec.run_id, status="running"))

    async def get_run(self, run_id: str) -> Run:
        """Return a run as the service sees it; while it is away, as declared, without usage."""
        run = await self._ask(partial(self._client.get_run, run_id))
        return run or self._here(self._sketch(run_id, status="running"))

    async def patch_run(self, run_id: str, patch: RunPatch) -> Run:
        """Change a run, or raise: an operator's change is never pretended."""
        run = await self._insist(partial(self._client.patch_run, run_id, patch))
        self._memories.setdefault(run_id, Memory(run.spec)).spec = run.spec
        return run

    async def finish_run(self, run_id: str) -> Run:
        """Tell the service what it missed and end the run, or remember to; `unreported` says what it was not told."""
        state = self._journal.run(run_id)
        self._journal.finish(run_id)
        self._behind = True
        run = await self._ask(partial(self._client.finish_run, run_id)) if await self.flush() else None
        if run is None:
            state.finishing = self._behind = True
        return run or self._here(self._sketch(run_id, status="finished"))

    async def plan(self, run_id: str, request: PlanRequest) -> PlanAnswer:
        """Choose prompts: as the service does, or uniformly. A plan made here stays as it is."""
        state, memory = self._journal.run(run_id), self._memories[run_id]
        await self._catch_up()
        here = memory.plans[request.plan_id] if request.plan_id in memory.own_plans else None
        asking = state.known and here is None
        answer = await self._ask(partial(self._client.plan, run_id, request)) if asking else None
        if answer is not None:
            return memory.planned(answer)
        return self._here(here or memory.plan(request, self.fallback_reason or PLANNED_HERE))

    async def open(self, run_id: str, request: OpenRequest) -> OpenAnswer:
        """Open groups: the service's priors and grants, or the first wave of the run's rules."""
        state, memory = self._journal.run(run_id), self._memories[run_id]
        named = {Key.of(group): group for group in request.groups}
        request = request.model_copy(update={"groups": [memory.told(group) for group in request.groups]})
        await self._catch_up()
        theirs = [
            group for group in request.groups if not (state.was_opened(group) and state.entry(Key.of(group)).local)
        ]
        asked = request.model_copy(update={"groups": theirs})
        there = partial(open_there, self._client, memory, run_id, asked)
        found = await self._ask(there) if theirs and state.known else None
        if found is not None:
            asked, answer = found
            answer = memory.unwithheld(answer, named, request.lease_s)
            self._journal.opened(run_id, asked, answer.groups, known=True)
            memory.weights.update({group.group_id: group.importance_weight for group in answer.groups})
            self._heed(run_id, answer.warnings)
            if len(theirs) == len(request.groups):
                return answer
        fresh = [group for group in request.groups if not state.was_opened(group)]
        ours = memory.open([named[Key.of(group)] for group in fresh], request.lease_s)
        memory.weights.update({group.group_id: group.importance_weight for group in ours})
        self._journal.opened(run_id, request.model_copy(update={"groups": fresh}), ours, known=False)
        opened = [state.entry(Key.of(group)).opened for group in request.groups]
        groups = [group for group in opened if group is not None]
        return self._here(OpenAnswer(groups=groups, degraded=True, detail=self.fallback_reason or OPENED_HERE))

    async def observe(self, run_id: str, request: ObserveRequest) -> ObserveAnswer:
        """Send all outcomes so far: the service's decisions, or the end of groups that cannot ask it."""
        state = self._journal.run(run_id)
        await self._catch_up()
        theirs = [group for group in request.groups if not state.entry(Key.of(group)).local]
        told = request.model_copy(update={"groups": theirs})
        answer = await self._ask(partial(self._client.observe, run_id, told)) if theirs and state.known else None
        decisions = {} if answer is None else {decision.group_id: decision for decision in answer.groups}
        if answer is not None:
            self._journal.observed(run_id, theirs, answer.groups, told=True)
        ours = [group for group in request.groups if group.group_id not in decisions]
        if ours:
            local = self._here(self._decide_here(run_id, ours))
            self._journal.observed(run_id, ours, local, told=False)
            decisions |= {decision.group_id: decision for decision in local}
        self._memories[run_id].decisions.update(decisions)
        return ObserveAnswer(groups=[decisions[group.group_id] for group in request.groups])

    async def close(self, run_id: str, request: CloseRequest) -> CloseAnswer:
        """Write down what was drawn and tell the service, now or when it is back; until then the answer is a forecast.

        A group that the service refuses raises its error; the others of the request are closed all the same.
        """
        self._memories[run_id].learn(self._journal.close(run_id, request.groups))
        self._behind = True
        await self._catch_up()
        state = self._journal.run(run_id)
        for group in request.groups:
            if (error := state.refused.get(Key.of(group))) is not None:
                raise error
        answer = CloseAnswer(groups=[state.settled(Key.of(group)) for group in request.groups])
        return self._here(answer) if self._behind else answer

    async def heartbeat(self, run_id: str) -> HeartbeatAnswer:
        """Renew all leases of a run; none while the service is away."""
        await self._catch_up()
        answer = await self._ask(partial(self._client.heartbeat, run_id))
        return answer or self._here(HeartbeatAnswer(renewed=0))

    async def baselines(self, run_id: str, request: BaselinesRequest) -> BaselinesAnswer:
        """Return the last baselines given by this client, the service's for groups that it did not see."""
        memory = self._memories.get(run_id)
        seen = {} if memory is None else memory.decisions
        weights = {} if memory is None else memory.weights
        found = {
            name: GroupBaselines(
                group_id=name,
                baseline=seen[name].baseline,
                baselines=seen[name].baselines,
                advantages=seen[name].advantages,
                importance_weight=weights.get(name, 1.0),
            )
            for name in request.group_ids
            if name in seen
        }
        missing = [name for name in request.group_ids if name not in found]
        if missing:
            asked = request.model_copy(update={"group_ids": missing})
            answer = await self._insist(partial(self._client.baselines, run_id, asked))
            found |= {group.group_id: group for group in answer.groups}
        return BaselinesAnswer(groups=[found[name] for name in request.group_ids])

    async def decide(self, request: DecideRequest) -> DecideAnswer:
        """Decide without a run: there, or with the same rules here."""
        answer = await self._ask(partial(self._client.decide, request))
        return answer or self._here(decide(request))

    async def budget(self) -> BudgetView:
        """Return the team's limits and usage, or raise."""
        return await self._insist(self._client.budget)

    async def usage(self, by: Sequence[Dimension] = ("team",), query: UsageQuery | None = None) -> UsageAnswer:
        """Return the team's usage, or raise."""
        return await self._insist(partial(self._client.usage, by, query))

    async def entries(
        self, kind: EntryKind | None = None, run_id: str | None = None, *, after: int = 0, limit: int = 100
    ) -> EntriesAnswer:
        """Return a page of the ledger's record, or raise."""
        return await self._insist(partial(self._client.entries, kind, run_id, after=after, limit=limit))

    async def reservation(self, reservation_id: str) -> ReservationView:
        """Return what became of a grant, or raise."""
        return await self._insist(partial(self._client.reservation, reservation_id))

    async def _ask(self, call: Callable[[], Awaitable[A]], *, raising: type[ServiceError] | None = None) -> A | None:
        """Return the service's answer, None where it is away; one door for every call."""
        now = self._clock()
        if not self._breaker.allows(now):
            return None
        deadline_s = PROBE_DEADLINE_S if self._breaker.is_open else self._deadline_s
        self._breaker = self._breaker.sent(now)
        try:
            with requests.named() as request:
                async with asyncio.timeout(deadline_s):
                    answer = await call()
        except TimeoutError:
            request.failures += 1
            late = Unavailable(f"no answer within {deadline_s:g} s")
            late.request_id = request.id
            self._lost(late)
            return None
        except ServiceError as error:
            raised = raising is not None and isinstance(error, raising)
            if not (raised and isinstance(error, Unauthorized)):
                self._lost(error)
            if raised:
                raise
            return None
        except RolloutBudgetError:
            self._found()
            raise
        self._found()
        return answer

    async def _insist(self, call: Callable[[], Awaitable[A]]) -> A:
        """Return the service's answer, or raise why there is none."""
        answer = await self._ask(call, raising=ServiceError)
        if answer is None:
            raise Unavailable(f"the allocator is away: {self.fallback_reason}")
        return answer

    async def _catch_up(self) -> None:
        """Tell the service what it missed, step by step, until it knows all or is away."""
        if not self._behind:
            return
        async with self._telling:
            while (step := self._journal.next()) is not None:
                try:
                    answer = await self._ask(partial(self._tell, step))
                except RolloutBudgetError as error:
                    self._refuse(step, error)
                    continue
                if answer is None:
                    return
                self._journal.done(step, answer)
            self._behind = False

    async def _tell(self, step: Step) -> object:
        match step:
            case Declare(spec=spec):
                return await self._client.create_run(spec)
            case Open(run_id=run_id, request=request):
                return await self._client.open(run_id, request)
            case Close(run_id=run_id, request=request):
                return await self._client.close(run_id, request)
            case Finish(run_id=run_id):
                return await self._client.finish_run(run_id)

    def _decide_here(self, run_id: str, groups: Sequence[ObserveGroup]) -> list[Decision]:
        state = self._journal.run(run_id)
        entries = [state.entry(Key.of(group)) for group in groups]
        return self._memories[run_id].decide(list(zip(entries, groups, strict=True)))

    def _heed(self, run_id: str, warnings: Sequence[str]) -> None:
        """Report limits that are near: a team's once, a run's once for each run."""
        for warning in warnings:
            limit = warning.partition(":")[0]
            name = limit if limit.startswith("team ") else f"{limit} of {run_id!r}"
            if name not in self._near:
                self._near.add(name)
                self._notify(Notice("near", f"{name}{warning.removeprefix(limit)}"))

    def _refuse(self, step: Step, error: RolloutBudgetError) -> None:
        what = self._journal.refuse(step, error)
        if what:
            self._notify(Notice("refused", f"{what}: {error}"))

    def _lost(self, error: ServiceError) -> None:
        was_away = self.degraded
        self._breaker = self._breaker.failed(self._clock())
        self.fallback_reason = f"{error} [request {error.request_id}]" if error.request_id else str(error)
        if self.degraded and not was_away:
            self._notify(Notice("away", f"deciding here from now on: {self.fallback_reason}"))

    def _found(self) -> None:
        was_away = self.degraded
        self._breaker = self._breaker.succeeded()
        self.fallback_reason = ""
        if was_away:
            self._notify(Notice("back", f"{self.unreported} rollouts to report"))

    def _here(self, answer: A) -> A:
        """Count an answer that was made here."""
        self.fallback_total += 1
        return answer

    def _sketch(self, run_id: str, *, status: Literal["running", "finished"]) -> Run:
        """Return what is known here of a run."""
        spec = self._journal.run(run_id).spec
        prior = prior_quality(self._memories[run_id].reliability, spec.outcome_range.core())
        return Run(spec=spec, status=status, usage=RolloutCounts(), prior=prior)
