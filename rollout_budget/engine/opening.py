"""Opening groups: ask for priors once, freeze them, grant first waves.

The prior source is asked between two transactions, never inside one, and only for groups that are new and bring no
prior of their own. If it does not answer, the run's own running mean serves, and the answer says so: a prior that is
gone degrades a run, it never stops one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollout_budget import baselines
from rollout_budget.decisions import Rules, first_wave
from rollout_budget.engine.answers import groups_of, value_to_unit
from rollout_budget.engine.ids import fingerprint, reservation_id
from rollout_budget.engine.ports import PriorSource, Store, Transaction
from rollout_budget.engine.records import GroupKey, GroupRecord, RunRecord
from rollout_budget.engine.waves import Wish, hold
from rollout_budget.errors import Conflict, RunFinished, ServiceError
from rollout_budget.ledger.base import Account
from rollout_budget.wire import OpenAnswer, OpenedGroup, OpenGroup, OpenRequest, PriorSourceName, Prompt

UNKNOWN_MEAN = 0.5
"""The prior of a run that has seen nothing, unit scale: the middle of the range."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the prior source said of one prompt, unit scale; `degraded` says why `value` is None, or how it is less."""

    value: float | None
    standard_error: float | None = None
    evidence_version: int = 0
    degraded: str = ""


@dataclass(frozen=True, slots=True)
class FrozenPrior:
    """The prior that a group keeps, unit scale; the fields are those of `GroupRecord`."""

    value: float
    standard_error: float | None
    source: PriorSourceName
    evidence_version: int = 0
    predicted: float | None = None
    degraded: str = ""


FetchKey = tuple[str, int, str]
"""Policy, version and prompt key."""


async def open_groups(store: Store, priors: PriorSource, team: str, run_id: str, request: OpenRequest) -> OpenAnswer:
    """Open groups; those opened before with the same body are answered as then.

    Raises:
        NotFound: this team has no such run.
        Conflict: a group was opened before with another body; nothing was stored for any of them.
        RunFinished: the run has ended and a group is new; nothing was stored.
        InvalidInput: a prior lies outside the outcome range; nothing was stored.
    """
    bodies = {GroupKey(group.group_id, group.attempt): group for group in request.groups}
    prints = {key: fingerprint(group) for key, group in bodies.items()}
    async with store.transaction() as transaction:
        run = await transaction.run(team, run_id)
        fresh = _fresh(run, prints, await transaction.groups(team, run_id, list(bodies)))
    fetched = await _fetch(priors, run, [bodies[key] for key in fresh if bodies[key].prior is None])
    async with store.transaction() as transaction:
        run = await transaction.run(team, run_id, lock=True)
        records = await transaction.groups(team, run_id, list(bodies))
        fresh = _fresh(run, prints, records)
        if fresh:
            frozen = {key: freeze(run, bodies[key], fetched) for key in fresh}
            opened = await _first_waves(transaction, run, {key: bodies[key] for key in fresh}, frozen, request.lease_s)
            new = [_record(run, bodies[key], prints[key], frozen[key], answer) for key, answer in opened.items()]
            await transaction.save_groups(team, run_id, new)
            records |= {record.key: record for record in new}
    return _answer([records[key] for key in bodies])


def freeze(run: RunRecord, group: OpenGroup, fetched: Mapping[FetchKey, Fetched]) -> FrozenPrior:
    """Choose the prior of a new group: the caller's, else the source's, else the run's running mean.

    For estimators that drop priors the running mean also takes the place of one that predicts no better than it does;
    the run then goes on judging what was `predicted`, so that a prior that recovers is used again.
    """
    learned, outcome_range = run.reliability, run.spec.outcome_range.core()
    mean = UNKNOWN_MEAN if learned.running_mean is None else min(max(learned.running_mean, 0.0), 1.0)
    if group.prior is not None:
        error = group.prior.standard_error
        value = float(value_to_unit(outcome_range, f"group {group.group_id!r}: prior", group.prior.value))
        prior = FrozenPrior(value, None if error is None else error / outcome_range.width, "caller")
    else:
        found = fetched[fetch_key(run, group)]
        if found.value is None:
            return FrozenPrior(mean, None, "running_mean", degraded=found.degraded)
        prior = FrozenPrior(
            found.value, found.standard_error, "prior_service", found.evidence_version, degraded=found.degraded
        )
    if learned.prior_usable or not baselines.get(run.spec.estimator).drops_prior:
        return prior
    return FrozenPrior(mean, None, "running_mean", prior.evidence_version, prior.value, prior.degraded)


def fetch_key(run: RunRecord, group: OpenGroup) -> FetchKey:
    """Return what a prior is asked by."""
    return group.policy or run.spec.policy, group.policy_version, group.prompt_key


def _fresh(run: RunRecord, prints: Mapping[GroupKey, str], records: Mapping[GroupKey, GroupRecord]) -> list[GroupKey]:
    """Return the keys of groups that were never opened."""
    for key, record in records.items():
        if record.fingerprint != prints[key]:
            raise Conflict(f"group {key.group_id!r} (attempt {key.attempt}) was opened with another body before")
    fresh = [key for key in prints if key not in records]
    if fresh and run.finished:
        raise RunFinished(f"run {run.spec.run_id!r} has ended and opens no more groups")
    return fresh


async def _fetch(priors: PriorSource, run: RunRecord, groups: Sequence[OpenGroup]) -> dict[FetchKey, Fetched]:
    texts: dict[tuple[str, int], dict[str, str | None]] = {}
    for group in groups:
        policy, version, prompt_key = fetch_key(run, group)
        known = texts.setdefault((policy, version), {})
        known[prompt_key] = known.get(prompt_key) or group.prompt
    fetched: dict[FetchKey, Fetched] = {}
    for (policy, version), known in texts.items():
        prompts = [Prompt(key=key, text=text) for key, text in known.items()]
        found = await _ask(priors, run, policy, version, prompts)
        fetched |= {(policy, version, prompt.key): item for prompt, item in zip(prompts, found, strict=True)}
    return fetched


async def _ask(
    priors: PriorSource, run: RunRecord, policy: str, version: int, prompts: Sequence[Prompt]
) -> list[Fetched]:
    try:
        answer = await priors.values(run.team, policy, version, prompts, run.spec.prior_model)
    except ServiceError as error:
        return [Fetched(None, degraded=f"no prior ({error.code}): {error}")] * len(prompts)
    values = {value.key: value for value in answer.values}
    missing = Fetched(None, degraded=f"no prior: {answer.detail or 'the source has none for this prompt'}")
    detail = (answer.detail or f"the prior came from {answer.model}") if answer.degraded else ""
    return [
        Fetched(value.value, value.standard_error, answer.evidence_version, detail)
        if (value := values.get(prompt.key)) is not None
        else missing
        for prompt in prompts
    ]


async def _first_waves(
    transaction: Transaction,
    run: RunRecord,
    bodies: Mapping[GroupKey, OpenGroup],
    frozen: Mapping[GroupKey, FrozenPrior],
    lease_s: float,
) -> dict[GroupKey, OpenedGroup]:
    priors = [frozen[key] for key in bodies]
    groups = groups_of([p.value for p in priors], [p.standard_error for p in priors], [()] * len(priors))
    plan = first_wave(Rules.of(run.spec), groups, run.reliability)
    run_id, outcome_range = run.spec.run_id, run.spec.outcome_range.core()
    wishes = [
        Wish(place, reservation_id(run_id, key, 0), int(plan.wanted[place]), group.step, lease_s)
        for place, (key, group) in enumerate(bodies.items())
    ]
    grants = await hold(transaction.ledger, Account(run.team, run_id), wishes, plan.worth)
    values = outcome_range.from_unit(groups.prior).tolist()
    return {
        key: OpenedGroup(
            group_id=key.group_id,
            attempt=key.attempt,
            prior=values[place],
            standard_error=None if prior.standard_error is None else prior.standard_error * outcome_range.width,
            prior_source=prior.source,
            evidence_version=prior.evidence_version,
            grant=grants[place],
            reason="first_wave" if grants[place] else "budget_exhausted",
            lease_s=lease_s,
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
        grants=(opened.grant,),
        opened=opened,
        lease_s=opened.lease_s,
        predicted=prior.predicted,
        degraded=prior.degraded,
    )


def _answer(records: Sequence[GroupRecord]) -> OpenAnswer:
    reasons = list(dict.fromkeys(record.degraded for record in records if record.degraded))
    return OpenAnswer(groups=[record.opened for record in records], degraded=bool(reasons), detail="; ".join(reasons))
