"""Observing groups: decide, hold the next wave.

Decisions are made with what the run has learned from groups that are closed (`learning`), so no sample sees itself in
the pooled figures either. Every outcome once reported stays: a later report may add some, a late duplicate of an earlier
one changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rollout_budget.decisions import Plan, Rules, sample_baselines
from rollout_budget.engine import waves
from rollout_budget.engine.answers import Sent, decisions, groups_of, repeated, to_unit
from rollout_budget.engine.ids import reservation_id
from rollout_budget.engine.ports import Store, Transaction
from rollout_budget.engine.records import GroupKey, GroupRecord, RunRecord
from rollout_budget.errors import Conflict, NotFound
from rollout_budget.groups import IntArray
from rollout_budget.ledger.base import Account
from rollout_budget.wire import Decision, ObserveAnswer, ObserveRequest, Reason


@dataclass(frozen=True, slots=True)
class Observation:
    """A group as it was before a report, and the report: as sent, and its outcomes on the unit scale."""

    record: GroupRecord
    sent: Sent
    outcomes: tuple[float, ...]


async def observe(store: Store, team: str, run_id: str, request: ObserveRequest) -> ObserveAnswer:
    """Decide about groups from all their outcomes so far.

    Raises:
        NotFound: this team has no such run, or a group was never opened; nothing was stored.
        Conflict: outcomes that were reported before are missing or changed; nothing was stored for any group.
        InvalidInput: an outcome lies outside the range; nothing was stored.
    """
    async with store.transaction(team) as transaction:
        run = await transaction.run(team, run_id, lock=True)
        seen = await _observations(transaction, run, request)
        fresh = [item for item in seen if is_news(item, _counted(run, item))]
        answers: dict[GroupKey, Decision] = {}
        if fresh:
            saved, decided = await _decide(transaction, run, fresh)
            await transaction.save_groups(team, run_id, saved)
            answers = {item.record.key: decision for item, decision in zip(fresh, decided, strict=True)}
        due = [item.record for item in seen if item.record.closed is None and waves.run_down(run, item.record)]
        await waves.renew(transaction.ledger, Account(team, run_id), due)
    for item in seen:
        if item.record.decision is not None and item.record.key not in answers:
            answers[item.record.key] = _again(run, item, item.record.decision)
    return ObserveAnswer(groups=[answers[item.record.key] for item in seen])


def is_news(item: Observation, counted: int) -> bool:
    """Whether a report says more than the last one did, or is the first.

    Raises:
        Conflict: it says something else. The first `counted` samples keep their place among the first ones sent.
    """
    record, before, now = item.record, item.record.outcomes, item.outcomes
    if record.decision is None:
        return True
    if len(now) < len(before):
        return False
    if Counter(before) - Counter(now) or Counter(before[:counted]) - Counter(now[:counted]):
        raise Conflict(f"group {record.key.group_id!r}: outcomes that were reported before are missing or changed")
    return len(now) > len(before)


async def _observations(transaction: Transaction, run: RunRecord, request: ObserveRequest) -> list[Observation]:
    outcomes = to_unit(
        run.spec.outcome_range.core(),
        [group.group_id for group in request.groups],
        [group.outcomes for group in request.groups],
    )
    keys = [GroupKey(group.group_id, group.attempt) for group in request.groups]
    records = await transaction.groups(run.team, run.spec.run_id, keys)
    missing = next((key for key in keys if key not in records), None)
    if missing is not None:
        raise NotFound(f"group {missing.group_id!r} (attempt {missing.attempt}) was never opened")
    return [
        Observation(records[key], Sent.of(group.group_id, group.outcomes, group.rewards), unit)
        for key, group, unit in zip(keys, request.groups, outcomes, strict=True)
    ]


async def _decide(
    transaction: Transaction, run: RunRecord, items: Sequence[Observation]
) -> tuple[list[GroupRecord], list[Decision]]:
    records = [item.record for item in items]
    groups = groups_of(
        [record.prior for record in records],
        [record.prior_error for record in records],
        [item.outcomes for item in items],
    )
    rules = Rules.of(run.in_force)
    plan = waves.plan(rules, groups, run.reliability)
    grants, more = await _hold(transaction, run, records, groups.sizes, plan)
    reasons: list[Reason] = [
        reason if record.closed is None else "closed"
        for record, reason in zip(
            records, waves.reasons(groups, plan, more, run.spec.k_max, waves.refusal(run)), strict=True
        )
    ]
    first = np.array([item.record.first_wave for item in items], dtype=np.int64)
    per_sample, counted = sample_baselines(rules, groups, run.reliability, first, plan.baselines)
    decided = decisions(
        run.spec.outcome_range.core(),
        [item.sent for item in items],
        groups,
        plan,
        per_sample=per_sample,
        counted=counted,
        more=more,
        reasons=reasons,
    )
    saved = [
        replace(
            item.record,
            outcomes=item.outcomes,
            decision=decision,
            grants=item.record.grants + granted,
            first_outcomes=item.record.first_outcomes or item.outcomes,
            held_until=run.moment + item.record.lease_s if waves.run_down(run, item.record) else item.record.held_until,
        )
        for item, decision, granted in zip(items, decided, grants, strict=True)
        if item.record.closed is None
    ]
    return saved, decided


async def _hold(
    transaction: Transaction, run: RunRecord, records: Sequence[GroupRecord], sizes: IntArray, plan: Plan
) -> tuple[list[tuple[int, ...]], list[int]]:
    """Hold the next wave; return what each group was granted now, if it asked, and what it may draw in all.

    Rollouts granted before and not drawn (a generation failed) are used up first. Closed groups draw nothing.
    """
    still_open = np.array([record.closed is None for record in records])
    granted = np.array([record.granted for record in records], dtype=np.int64)
    spare = np.minimum(np.maximum(granted - sizes, 0), plan.wanted) * still_open
    asked = (plan.wanted - spare) * still_open
    wishes = [
        waves.Wish(
            place,
            reservation_id(run.spec.run_id, record.key, len(record.grants)),
            asked_now,
            record.step,
            record.lease_s,
            record.policy,
            extra=True,
        )
        for place, (record, asked_now) in enumerate(zip(records, asked.tolist(), strict=True))
        if asked_now
    ]
    account = Account(run.team, run.spec.run_id)
    worth = plan.worth.beyond(spare)
    found = {} if run.withheld else await waves.hold(transaction.ledger, account, wishes, worth)
    more = [held + found.get(place, 0) for place, held in enumerate(spare.tolist())]
    return [(found[place],) if place in found else () for place in range(len(records))], more


def _again(run: RunRecord, item: Observation, decision: Decision) -> Decision:
    """Answer a report that says nothing new: an older one as the last was, the same one for its own order."""
    if len(item.outcomes) < len(item.record.outcomes):
        return decision
    return repeated(decision, item.record.outcomes, item.outcomes, item.sent, _counted(run, item))


def _counted(run: RunRecord, item: Observation) -> int:
    """Return how many samples, the first ones sent, carry advantages."""
    return item.record.first_wave if run.spec.advantage_samples == "first_wave" else len(item.outcomes)
