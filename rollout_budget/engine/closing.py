"""Closing groups and ending runs: settle the ledger, keep the outcomes as evidence.

Evidence enters the outbox in the transaction that settles, so it is neither lost nor doubled when a service is down;
`deliver` carries it to the prior source afterwards, as often as it takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rollout_budget.engine import pacing
from rollout_budget.engine.answers import to_unit
from rollout_budget.engine.ids import evidence_id, reservation_ids
from rollout_budget.engine.learning import learn
from rollout_budget.engine.ports import Evidence, PolicyOwner, PriorSource, Store, Transaction
from rollout_budget.engine.records import GroupKey, GroupRecord, RunRecord
from rollout_budget.errors import Conflict, InvalidInput, NotFound, ServiceError
from rollout_budget.ledger.base import Account, Settled, Settlement
from rollout_budget.wire import MAX_GROUPS, CloseAnswer, ClosedGroup, CloseGroup, CloseRequest, EvidenceRow


async def close(store: Store, team: str, run_id: str, request: CloseRequest) -> CloseAnswer:
    """Commit what was used, release the rest, turn outcomes into evidence; a closed group is answered as before.

    Of a group that the end of its run closed with less, the difference is booked, of rollouts as overage: it was drawn.

    Raises:
        NotFound: this team has no such run, or a group was never opened; nothing was stored.
        Conflict: a group was closed with another count before; nothing was stored for any group.
        InvalidInput: an outcome lies outside the range, or there are more than rollouts; nothing was stored.
    """
    bodies = {GroupKey(group.group_id, group.attempt): group for group in request.groups}
    async with store.transaction(team) as transaction:
        run = await transaction.run(team, run_id, lock=True)
        records = await transaction.groups(team, run_id, list(bodies))
        missing = next((key for key in bodies if key not in records), None)
        if missing is not None:
            raise NotFound(f"group {missing.group_id!r} (attempt {missing.attempt}) was never opened")
        closing = {key: body for key, body in bodies.items() if not _closed(run, records[key], body)}
        outcomes = _final_outcomes(run, closing, records)
        answers = {key: record.closed for key, record in records.items() if record.closed is not None}
        answers |= await _settle(transaction, run, closing, records, outcomes)
        paced = pacing.closed(run, closing, records, outcomes)
        learned = _learned(paced, closing, records, outcomes)
        if learned is not run:
            await transaction.save_run(learned)
    return CloseAnswer(groups=[answers[key] for key in bodies])


async def finish(transaction: Transaction, run: RunRecord) -> RunRecord:
    """End a run: what is open is settled as far as it was observed, the rest goes back. Ending twice changes nothing."""
    if run.finished:
        return run
    records = {record.key: record for record in await transaction.open_groups(run.team, run.spec.run_id)}
    outcomes = {key: record.outcomes for key, record in records.items()}
    bodies = {
        key: CloseGroup(group_id=key.group_id, attempt=key.attempt, used=len(seen)) for key, seen in outcomes.items()
    }
    await _settle(transaction, run, bodies, records, outcomes)
    ended = replace(_learned(run, bodies, records, outcomes), finished=True)
    await transaction.save_run(ended)
    await transaction.drop_plans(run.team, run.spec.run_id)  # no group can be opened by them any more
    return ended


async def deliver(store: Store, priors: PriorSource) -> int:
    """Carry waiting evidence to the prior source, oldest first; return how many rows went.

    What fails stays, and the rest of its policy is left for the next delivery; others are not held up by it.
    """
    delivered = 0
    failing: set[PolicyOwner] = set()
    while True:
        async with store.transaction() as transaction:
            waiting = await transaction.pending_evidence(MAX_GROUPS, without=failing)
        if not waiting:
            return delivered
        batches: dict[PolicyOwner, list[Evidence]] = {}
        for item in waiting:
            batches.setdefault(item.owner, []).append(item)
        done: list[str] = []
        for (team, policy), batch in batches.items():
            try:
                await priors.add_evidence(team, policy, [item.row for item in batch])
            except ServiceError:
                failing.add((team, policy))
            else:
                done += [item.id for item in batch]
        if done:
            async with store.transaction() as transaction:
                await transaction.evidence_delivered(done)
        delivered += len(done)


def _closed(run: RunRecord, record: GroupRecord, body: CloseGroup) -> bool:
    """Whether nothing is left to book. The end of a run closes groups as observed: what was drawn beyond is booked then."""
    if record.closed is None:
        return False
    before = _booked(record)
    if before != body.used and not run.finished:
        raise Conflict(f"group {record.key.group_id!r} was closed with {before} rollouts before, not {body.used}")
    more_used = (body.tokens or 0) > record.tokens or (body.seconds or 0.0) > record.seconds
    return body.used <= before and not (run.finished and more_used)


def _booked(record: GroupRecord) -> int:
    """Return how many rollouts of a group are settled as drawn."""
    return 0 if record.closed is None else record.closed.committed + record.closed.overage


def _final_outcomes(
    run: RunRecord, bodies: Mapping[GroupKey, CloseGroup], records: Mapping[GroupKey, GroupRecord]
) -> dict[GroupKey, tuple[float, ...]]:
    sent = [body.outcomes or () for body in bodies.values()]
    units = to_unit(run.spec.outcome_range.core(), [key.group_id for key in bodies], sent)
    final = {
        key: records[key].outcomes if body.outcomes is None else unit
        for (key, body), unit in zip(bodies.items(), units, strict=True)
    }
    for key, outcomes in final.items():
        if len(outcomes) > bodies[key].used:
            raise InvalidInput(f"group {key.group_id!r}: {len(outcomes)} outcomes of {bodies[key].used} rollouts")
    return final


async def _settle(
    transaction: Transaction,
    run: RunRecord,
    bodies: Mapping[GroupKey, CloseGroup],
    records: Mapping[GroupKey, GroupRecord],
    outcomes: Mapping[GroupKey, Sequence[float]],
) -> dict[GroupKey, ClosedGroup]:
    run_id = run.spec.run_id
    settlements = [
        Settlement(
            reservations=reservation_ids(run_id, key, len(records[key].grants)),
            used=max(0, body.used - _booked(records[key])),
            reference=0 if body.discard or not body.used or _booked(records[key]) else run.spec.reference_group_size,
            tokens=max(0, (body.tokens or 0) - records[key].tokens),
            seconds=max(0.0, (body.seconds or 0.0) - records[key].seconds),
        )
        for key, body in bodies.items()
    ]
    settled = await transaction.ledger.settle(Account(run.team, run_id), settlements)
    closed = {key: _added(records[key], line) for key, line in zip(bodies, settled, strict=True)}
    ended = [
        replace(
            records[key],
            closed=answer,
            tokens=max(records[key].tokens, bodies[key].tokens or 0),
            seconds=max(records[key].seconds, bodies[key].seconds or 0.0),
        )
        for key, answer in closed.items()
    ]
    await transaction.save_groups(run.team, run_id, ended)
    kept = _kept(bodies, records, outcomes)
    await transaction.queue_evidence([_evidence(run, records[key], outcomes[key]) for key in kept])
    return closed


def _kept(
    bodies: Mapping[GroupKey, CloseGroup],
    records: Mapping[GroupKey, GroupRecord],
    outcomes: Mapping[GroupKey, Sequence[float]],
) -> list[GroupKey]:
    """Return the groups whose outcomes teach something: settled for the first time, with outcomes, not discarded."""
    return [key for key, body in bodies.items() if outcomes[key] and not body.discard and not _booked(records[key])]


def _learned(
    run: RunRecord,
    bodies: Mapping[GroupKey, CloseGroup],
    records: Mapping[GroupKey, GroupRecord],
    outcomes: Mapping[GroupKey, Sequence[float]],
) -> RunRecord:
    """Return the run taught by the groups that teach something: itself, if there are none."""
    taught = _kept(bodies, records, outcomes)
    return learn(run, [records[key] for key in taught], [outcomes[key] for key in taught])


def _added(record: GroupRecord, line: Settled) -> ClosedGroup:
    """Return where a group's rollouts went, now that `line` came to what was settled before."""
    before = record.closed or ClosedGroup(group_id=record.key.group_id, committed=0, released=0, overage=0)
    return ClosedGroup(
        group_id=before.group_id,
        committed=before.committed + line.committed,
        released=before.released + line.released,
        overage=before.overage + line.overage,
    )


def _evidence(run: RunRecord, record: GroupRecord, outcomes: Sequence[float]) -> Evidence:
    identity = evidence_id(run.team, run.spec.run_id, record.key)
    row = EvidenceRow(
        id=identity,
        key=record.prompt_key,
        version=record.policy_version,
        successes=math.fsum(outcomes),
        trials=len(outcomes),
    )
    return Evidence(identity, run.team, record.policy, row)
