"""Opening groups: ask for priors once, freeze them, grant first waves.

The prior source is asked (`freezing`) only for groups that are new and bring no prior of their own. A group that names
the plan which chose its prompt gets the first wave and the importance weight of that plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rollout_budget.decisions import Rules, first_wave
from rollout_budget.engine import pacing
from rollout_budget.engine.answers import groups_of
from rollout_budget.engine.freezing import Fetched, FetchKey, FrozenPrior, fetch, freeze
from rollout_budget.engine.ids import fingerprint, reservation_id
from rollout_budget.engine.ports import PriorSource, Store, Transaction
from rollout_budget.engine.records import GroupKey, GroupRecord, RunRecord
from rollout_budget.engine.waves import Wish, hold, refusal, renew
from rollout_budget.errors import Conflict, InvalidInput, NotFound, RunFinished
from rollout_budget.ledger.base import Account
from rollout_budget.wire import LimitUse, OpenAnswer, OpenedGroup, OpenGroup, OpenRequest, PlannedPrompt


async def open_groups(store: Store, priors: PriorSource, team: str, run_id: str, request: OpenRequest) -> OpenAnswer:
    """Open groups; those opened before with the same body are answered as then, and their leases begin anew.

    They begin anew because an answer says for how long its grants are held: for whoever asks twice, from the second time.

    Raises:
        NotFound: this team has no such run, or a group names a plan that is not (or no longer) kept; nothing was stored.
        Conflict: a group was opened before with another body; nothing was stored for any of them.
        RunFinished: the run has ended and a group is new; nothing was stored.
        InvalidInput: a prior lies outside the outcome range, or the plan did not choose the prompt; nothing was stored.
    """
    bodies = {GroupKey(group.group_id, group.attempt): group for group in request.groups}
    prints = {key: fingerprint(group) for key, group in bodies.items()}
    fetched: dict[FetchKey, Fetched] = {}
    if any(body.prior is None for body in bodies.values()):  # else the source has nothing to be asked
        async with store.transaction(team) as transaction:
            run = await transaction.run(team, run_id)
            fresh = _fresh(run, prints, await transaction.groups(team, run_id, list(bodies)))
        fetched = await fetch(priors, run, [bodies[key] for key in fresh if bodies[key].prior is None])
    async with store.transaction(team) as transaction:
        run = await transaction.run(team, run_id, lock=True)
        records = await transaction.groups(team, run_id, list(bodies))
        fresh = _fresh(run, prints, records)
        new: list[GroupRecord] = []
        near: Sequence[LimitUse] = ()
        if fresh:
            new_bodies = {key: bodies[key] for key in fresh}
            names = [f"group {key.group_id!r}" for key in fresh]
            frozen = dict(zip(fresh, freeze(run, names, list(new_bodies.values()), fetched), strict=True))
            planned = await _planned(transaction, run, new_bodies)
            run = await pacing.opened(transaction, run, list(new_bodies.values()))
            opened = await _first_waves(transaction, run, new_bodies, frozen, planned=planned, lease_s=request.lease_s)
            new = [_record(run, bodies[key], prints[key], frozen[key], answer) for key, answer in opened.items()]
            near = transaction.ledger.warnings()
            await transaction.save_groups(team, run_id, new)
        again = [record for record in records.values() if record.closed is None]
        await renew(transaction.ledger, Account(team, run_id), again)
        records |= {record.key: record for record in new}
    return _answer([records[key] for key in bodies], near)


def _fresh(run: RunRecord, prints: Mapping[GroupKey, str], records: Mapping[GroupKey, GroupRecord]) -> list[GroupKey]:
    """Return the keys of groups that were never opened."""
    for key, record in records.items():
        if record.fingerprint != prints[key]:
            raise Conflict(f"group {key.group_id!r} (attempt {key.attempt}) was opened with another body before")
    fresh = [key for key in prints if key not in records]
    if fresh and run.finished:
        raise RunFinished(f"run {run.spec.run_id!r} has ended and opens no more groups")
    return fresh


async def _planned(
    transaction: Transaction, run: RunRecord, bodies: Mapping[GroupKey, OpenGroup]
) -> dict[GroupKey, PlannedPrompt]:
    """Return what plans said of the groups that name one."""
    named = {key: group.plan_id for key, group in bodies.items() if group.plan_id is not None}
    if not named:
        return {}
    plans = await transaction.plans(run.team, run.spec.run_id, sorted(set(named.values())))
    chosen = {(plan_id, prompt.prompt_key): prompt for plan_id, plan in plans.items() for prompt in plan.answer.prompts}
    found: dict[GroupKey, PlannedPrompt] = {}
    for key, plan_id in named.items():
        prompt = chosen.get((plan_id, bodies[key].prompt_key))
        if plan_id not in plans:
            raise NotFound(f"group {key.group_id!r}: no plan {plan_id!r} is kept")
        if prompt is None:
            raise InvalidInput(
                f"group {key.group_id!r}: plan {plan_id!r} did not choose prompt {bodies[key].prompt_key!r}"
            )
        found[key] = prompt
    return found


async def _first_waves(
    transaction: Transaction,
    run: RunRecord,
    bodies: Mapping[GroupKey, OpenGroup],
    frozen: Mapping[GroupKey, FrozenPrior],
    *,
    planned: Mapping[GroupKey, PlannedPrompt],
    lease_s: float,
) -> dict[GroupKey, OpenedGroup]:
    priors = [frozen[key] for key in bodies]
    groups = groups_of([p.value for p in priors], [p.standard_error for p in priors], [()] * len(priors))
    plan = first_wave(Rules.of(run.in_force), groups, run.reliability)
    run_id, outcome_range = run.spec.run_id, run.spec.outcome_range.core()
    own = [planned[key].first_wave if key in planned else -1 for key in bodies]
    wanted = np.where(np.array(own) < 0, plan.wanted, own).tolist()
    wishes = [
        Wish(
            place,
            reservation_id(run_id, key, 0),
            wanted[place],
            group.step,
            lease_s,
            group.policy or run.spec.policy,
            extra=False,
        )
        for place, (key, group) in enumerate(bodies.items())
    ]
    account = Account(run.team, run_id)
    grants = {} if run.withheld else await hold(transaction.ledger, account, wishes, plan.worth)
    values = outcome_range.from_unit(groups.prior).tolist()
    return {
        key: OpenedGroup(
            group_id=key.group_id,
            attempt=key.attempt,
            prior=values[place],
            standard_error=None if prior.standard_error is None else prior.standard_error * outcome_range.width,
            prior_source=prior.source,
            evidence_version=prior.evidence_version,
            grant=grants.get(place, 0),
            reason="first_wave" if grants.get(place) else refusal(run),
            lease_s=lease_s,
            importance_weight=planned[key].importance_weight if key in planned else 1.0,
        )
        for place, (key, prior) in enumerate(zip(bodies, priors, strict=True))
    }


def _record(run: RunRecord, group: OpenGroup, print_: str, prior: FrozenPrior, opened: OpenedGroup) -> GroupRecord:
    return GroupRecord(
        key=GroupKey(group.group_id, group.attempt),
        fingerprint=print_,
        prompt_key=group.prompt_key,
        policy=group.policy or run.spec.policy,
        policy_version=group.policy_version,
        step=group.step,
        prior=prior.value,
        prior_error=prior.standard_error,
        prior_source=prior.source,
        evidence_version=prior.evidence_version,
        grants=() if run.withheld else (opened.grant,),
        opened=opened,
        lease_s=opened.lease_s,
        predicted=prior.predicted,
        degraded=prior.degraded,
        plan_id=group.plan_id,
        held_until=run.moment + opened.lease_s,
    )


def _answer(records: Sequence[GroupRecord], near: Sequence[LimitUse]) -> OpenAnswer:
    reasons = list(dict.fromkeys(record.degraded for record in records if record.degraded))
    return OpenAnswer(
        groups=[record.opened for record in records],
        degraded=bool(reasons),
        detail="; ".join(reasons),
        warnings=[f"{use.level} {use.name}: {use.used:.15g} of {use.limit:.15g} used or held" for use in near],
    )
