"""The allocator's protocol, once: runs, groups, decisions, budgets. The service and the in-process allocator are this.

Owns the order of things: what happens in which transaction, and what is asked of whom. Decisions are the core's
(`decisions`), budgets the ledger's, storage and priors stand behind the two ports. Every call is one transaction at
its end; one that raises leaves nothing behind. Calls about one run take turns on its record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from rollout_budget.engine import closing, observing, opening, planning, reading, stateless, waves
from rollout_budget.engine.answers import run_answer
from rollout_budget.engine.ids import fingerprint
from rollout_budget.engine.ports import Offload, PriorSource, Store, Transaction, here
from rollout_budget.engine.records import RunRecord
from rollout_budget.errors import Conflict, InvalidInput, NotFound
from rollout_budget.ledger.base import Account, Discrepancy, Selection
from rollout_budget.reliability import Reliability
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
    GroupBaselines,
    HeartbeatAnswer,
    ObserveAnswer,
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
    TeamLimits,
    UsageAnswer,
    UsageQuery,
)
from rollout_budget.wire.pacing import require_priced


class Engine:
    """The whole protocol over a store and a source of priors; `offload` says where large computations happen."""

    def __init__(self, store: Store, priors: PriorSource, offload: Offload = here) -> None:
        self._store = store
        self._priors = priors
        self._offload = offload

    async def create_run(self, team: str, spec: RunSpec) -> Run:
        """Declare a run; the same body again returns the run as it stands, patches included.

        Raises:
            Conflict: the id was declared with another body before.
            NotFound: this team has no run of the id that it shall start from; nothing was stored.
            InvalidInput: that run has another prior model; nothing was stored.
        """
        async with self._store.transaction(team) as transaction:
            new = RunRecord(team, spec, await _handed_on(transaction, team, spec), fingerprint=fingerprint(spec))
            record = await transaction.add_run(new)
            if record.fingerprint != new.fingerprint:
                raise Conflict(f"run {spec.run_id!r} was declared with another body before")
            await transaction.ledger.open_account(Account(team, spec.run_id), record.spec.limits)
            return await _run_answer(transaction, record)

    async def get_run(self, team: str, run_id: str) -> Run:
        """Return a run with what it has used and learned.

        Raises:
            NotFound: this team has no such run; so raise all methods that take a run.
        """
        async with self._store.transaction(team) as transaction:
            return await _run_answer(transaction, await transaction.run(team, run_id))

    async def patch_run(self, team: str, run_id: str, patch: RunPatch) -> Run:
        """Change price, limits or pacing; lowering a limit below use stops new grants only.

        Raises:
            NotFound: this team has no such run.
            InvalidInput: pacing for a stopping rule without a price; nothing was stored.
        """
        changes = {name: value for name in patch.model_fields_set if (value := getattr(patch, name)) is not None}
        async with self._store.transaction(team) as transaction:
            record = await transaction.run(team, run_id, lock=True)
            patched = replace(record, spec=_patched(record.spec, changes))
            await transaction.save_run(patched)
            await transaction.ledger.open_account(Account(team, run_id), patched.spec.limits)
            return await _run_answer(transaction, patched)

    async def finish_run(self, team: str, run_id: str) -> Run:
        """End a run: open groups are settled as observed, the rest of their grants goes back."""
        async with self._store.transaction(team) as transaction:
            record = await closing.finish(transaction, await transaction.run(team, run_id, lock=True))
            return await _run_answer(transaction, record)

    async def plan(self, team: str, run_id: str, request: PlanRequest) -> PlanAnswer:
        """Choose which prompts to open (see `planning`)."""
        return await planning.plan(self._store, self._priors, team, run_id, request, offload=self._offload)

    async def open(self, team: str, run_id: str, request: OpenRequest) -> OpenAnswer:
        """Open groups: frozen priors and first grants (see `opening`)."""
        return await opening.open_groups(self._store, self._priors, team, run_id, request)

    async def observe(self, team: str, run_id: str, request: ObserveRequest) -> ObserveAnswer:
        """Decide about groups from all their outcomes so far (see `observing`)."""
        return await observing.observe(self._store, team, run_id, request)

    async def close(self, team: str, run_id: str, request: CloseRequest) -> CloseAnswer:
        """Settle groups and queue their evidence (see `closing`)."""
        return await closing.close(self._store, team, run_id, request)

    async def heartbeat(self, team: str, run_id: str) -> HeartbeatAnswer:
        """Renew the leases of all open groups of a run, each for as long as it was opened for."""
        async with self._store.transaction(team) as transaction:
            await transaction.run(team, run_id)
            records = await transaction.open_groups(team, run_id)
            return HeartbeatAnswer(renewed=await waves.renew(transaction.ledger, Account(team, run_id), records))

    async def baselines(self, team: str, run_id: str, request: BaselinesRequest) -> BaselinesAnswer:
        """Return the last decision of groups by id, of their highest attempt; without outcomes it is the prior.

        Raises:
            NotFound: a group was never opened; the message names it.
        """
        async with self._store.transaction(team) as transaction:
            await transaction.run(team, run_id)
            records = await transaction.latest_groups(team, run_id, request.group_ids)
        missing = next((group_id for group_id in request.group_ids if group_id not in records), None)
        if missing is not None:
            raise NotFound(f"group {missing!r} was never opened")
        found = [records[group_id] for group_id in request.group_ids]
        return BaselinesAnswer(
            groups=[
                GroupBaselines(
                    group_id=record.key.group_id,
                    baseline=record.opened.prior if record.decision is None else record.decision.baseline,
                    baselines=[] if record.decision is None else record.decision.baselines,
                    advantages=[] if record.decision is None else record.decision.advantages,
                    importance_weight=record.opened.importance_weight,
                )
                for record in found
            ]
        )

    async def decide(self, request: DecideRequest) -> DecideAnswer:
        """Decide without a run and without a ledger (see `stateless`)."""
        return await self._offload(partial(stateless.decide, request), len(request.groups))

    async def budget(self, team: str) -> BudgetView:
        """Return a team's limits and counters."""
        async with self._store.transaction(team) as transaction:
            return await transaction.ledger.budget(team)

    async def usage(
        self, team: str, by: Sequence[Dimension] = ("team",), query: UsageQuery | None = None
    ) -> UsageAnswer:
        """Return a page of a team's usage, grouped by these dimensions (see `reading`)."""
        async with self._store.transaction(team) as transaction:
            return await reading.usage(transaction.ledger, team, by, query or UsageQuery())

    async def entries(
        self, team: str, kind: EntryKind | None = None, run_id: str | None = None, *, after: int = 0, limit: int = 100
    ) -> EntriesAnswer:
        """Return a page of the team's record, in the order in which it was written, from above the id `after`."""
        async with self._store.transaction(team) as transaction:
            found = await transaction.ledger.entries(team, kind, run_id, after=after, limit=limit)
        return EntriesAnswer(entries=found, next=found[-1].entry_id if len(found) == limit else None)

    async def reservation(self, team: str, reservation_id: str) -> ReservationView:
        """Return what became of a grant.

        Raises:
            NotFound: this team has none of that id.
        """
        async with self._store.transaction(team) as transaction:
            found = await transaction.ledger.reservation(team, reservation_id)
        return ReservationView(
            reservation_id=found.id,
            run_id=found.account.run,
            rollouts=found.rollouts,
            used=found.used,
            state=found.state,
            expires_in_s=found.expires_in_s,
        )

    async def set_team_limits(self, team: str, limits: TeamLimits) -> BudgetView:
        """Set a team's limits; lower than what is used already is legal and stops new grants only."""
        async with self._store.transaction(team) as transaction:
            await transaction.ledger.set_team_limits(team, limits)
            return await transaction.ledger.budget(team)

    async def expire(self) -> int:
        """Give back every hold whose lease has ended; return how many rollouts. Refusals do so by themselves."""
        async with self._store.transaction() as transaction:
            return await transaction.ledger.expire()

    async def audit(self) -> list[Discrepancy]:
        """Recompute the ledger's counters from its entries; accounts that differ get no grants."""
        async with self._store.transaction() as transaction:
            return await transaction.ledger.audit()

    async def deliver_evidence(self) -> int:
        """Carry waiting evidence to the prior source; return how many rows went. What fails stays for the next time."""
        return await closing.deliver(self._store, self._priors)


async def _handed_on(transaction: Transaction, team: str, spec: RunSpec) -> Reliability:
    """Return what a run starts from. What one prior model's values proved to mean says nothing of another's."""
    if spec.warm_start is None:
        return Reliability()
    other = await transaction.run(team, spec.warm_start)
    if other.spec.prior_model != spec.prior_model:
        raise InvalidInput(
            f"warm_start: run {spec.warm_start!r} has the prior model {other.spec.prior_model!r}, not {spec.prior_model!r}"
        )
    return other.reliability.handed_on()


def _patched(spec: RunSpec, changes: Mapping[str, object]) -> RunSpec:
    """Return the spec with changes; pacing alone takes back a price set by hand, as that would win."""
    if "pacing" not in changes:
        return spec.model_copy(update=changes)
    try:
        require_priced(spec.stopping)
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    return spec.model_copy(update={"price": None, **changes})


async def _run_answer(transaction: Transaction, record: RunRecord) -> Run:
    rows = await transaction.ledger.usage(record.team, ("run",), Selection(run=record.spec.run_id))
    return run_answer(record, rows[0].counts if rows else RolloutCounts())
