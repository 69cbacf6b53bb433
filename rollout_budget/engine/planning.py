"""Choosing prompts: ask for the priors of all candidates, choose by them, keep what was chosen and with which chance.

The prior source is asked, and the choice is made, between two transactions; where the source is gone the run's running
mean serves for every candidate, which makes the choice nearly uniform, and the answer says so. Nothing is held in the
ledger: grants are given when groups open. A plan is kept, as keys and figures, while it is among the `PLANS_KEPT`
newest of its run, and the run goes on: so long a repeated request is answered the same and groups can name it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from rollout_budget import planning
from rollout_budget.decisions import Rules
from rollout_budget.engine.answers import groups_of
from rollout_budget.engine.freezing import Fetched, FetchKey, FrozenPrior, fetch, freeze
from rollout_budget.engine.ids import fingerprint, plan_seed
from rollout_budget.engine.ports import Offload, PriorSource, Store, Transaction
from rollout_budget.engine.records import PlanRecord, RunRecord
from rollout_budget.errors import Conflict, RunFinished
from rollout_budget.planning import Allowance, Choice
from rollout_budget.reliability import Reliability
from rollout_budget.wire import PlanAnswer, PlannedPrompt, PlanRequest, RunSpec

PLANS_KEPT = 64
"""Plans of a run that are kept: groups are opened within a step or a few of being chosen. Some 250 bytes a prompt, so
4 MB for steps of 256 groups."""


async def plan(
    store: Store, priors: PriorSource, team: str, run_id: str, request: PlanRequest, *, offload: Offload
) -> PlanAnswer:
    """Choose prompts; the same request again is answered the same.

    Raises:
        NotFound: this team has no such run.
        Conflict: the id was used for another body before; nothing was stored.
        RunFinished: the run has ended and the plan is new; nothing was stored.
        InvalidInput: a prior lies outside the outcome range; nothing was stored.
    """
    print_ = fingerprint(request)
    async with store.transaction(team) as transaction:
        run = await transaction.run(team, run_id)
        kept = await _kept(transaction, run, request.plan_id, print_)
    if kept is not None:
        return kept
    fetched = await fetch(priors, run, [candidate for candidate in request.candidates if candidate.prior is None])
    answer = await offload(partial(_answer, run, request, fetched), len(request.candidates))
    async with store.transaction(team) as transaction:
        run = await transaction.run(team, run_id, lock=True)
        kept = await _kept(transaction, run, request.plan_id, print_)
        if kept is None:
            await transaction.add_plan(team, run_id, PlanRecord(request.plan_id, print_, answer), PLANS_KEPT)
    return kept or answer


def decide(
    spec: RunSpec, reliability: Reliability, request: PlanRequest, priors: list[FrozenPrior], *, exploration: float
) -> PlanAnswer:
    """Choose among candidates with these priors. Pure: the plan's id is the seed."""
    groups = groups_of([p.value for p in priors], [p.standard_error for p in priors], [()] * len(priors))
    choice = planning.choose(
        Rules.of(spec),
        groups,
        reliability,
        Allowance(request.groups, request.rollouts),
        exploration=exploration,
        seed=plan_seed(spec.run_id, request.plan_id),
    )
    reasons = list(dict.fromkeys(prior.degraded for prior in priors if prior.degraded))
    return PlanAnswer(
        plan_id=request.plan_id,
        candidates=len(priors),
        prompts=_prompts(spec, request, priors, choice),
        degraded=bool(reasons),
        detail="; ".join(reasons),
    )


async def _kept(transaction: Transaction, run: RunRecord, plan_id: str, print_: str) -> PlanAnswer | None:
    """Return the answer of a plan that was made before, None where it is new and may be made."""
    record = (await transaction.plans(run.team, run.spec.run_id, [plan_id])).get(plan_id)
    if record is None:
        if run.finished:
            raise RunFinished(f"run {run.spec.run_id!r} has ended and plans no more")
        return None
    if record.fingerprint != print_:
        raise Conflict(f"plan {plan_id!r} was made from another body before")
    return record.answer


def _answer(run: RunRecord, request: PlanRequest, fetched: Mapping[FetchKey, Fetched]) -> PlanAnswer:
    names = [f"prompt {candidate.prompt_key!r}" for candidate in request.candidates]
    priors = freeze(run, names, request.candidates, fetched)
    return decide(run.in_force, run.reliability, request, priors, exploration=request.exploration)


def _prompts(spec: RunSpec, request: PlanRequest, priors: list[FrozenPrior], choice: Choice) -> list[PlannedPrompt]:
    outcome_range = spec.outcome_range.core()
    chosen = choice.chosen.tolist()
    values = outcome_range.from_unit([priors[place].value for place in chosen]).tolist()
    errors = [priors[place].standard_error for place in chosen]
    return [
        PlannedPrompt(
            prompt_key=request.candidates[place].prompt_key,
            propensity=float(choice.propensity[i]),
            importance_weight=float(choice.weight[i]),
            first_wave=int(choice.first[i]),
            prior=values[i],
            standard_error=None if (error := errors[i]) is None else error * outcome_range.width,
            prior_source=priors[place].source,
            expected_signal=outcome_range.squared_from_unit(float(choice.signal[place])),
        )
        for i, place in enumerate(chosen)
    ]
