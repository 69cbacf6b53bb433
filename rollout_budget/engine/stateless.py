"""Decisions without a run: priors and outcomes in, decisions out. Pure; nothing is stored or held."""

from __future__ import annotations

from rollout_budget import allocation
from rollout_budget.decisions import Rules, first_wave, sample_baselines
from rollout_budget.engine.answers import Sent, decisions, groups_of, prior_quality, to_unit, value_to_unit
from rollout_budget.engine.freezing import UNKNOWN_MEAN
from rollout_budget.engine.waves import plan, reasons
from rollout_budget.groups import Groups, IntArray
from rollout_budget.reliability import Reliability
from rollout_budget.wire import DecideAnswer, DecideRequest


def decide(request: DecideRequest) -> DecideAnswer:
    """Decide about a batch by itself.

    Pooled figures that are not given are estimated from the batch, which then sees itself in them. There is no first
    wave on record, so `advantage_samples: first_wave` counts as many samples as one would have had.

    Raises:
        InvalidInput: an outcome or a prior lies outside the range.
    """
    outcome_range = request.outcome_range.core()
    rules = Rules.of(request)
    groups = _groups(request)
    reliability = _reliability(request, groups)
    planned = plan(rules, groups, reliability)
    wanted = planned.wanted
    share = wanted if request.budget is None else allocation.share(planned.worth, wanted, request.budget)
    more = share.tolist()
    sent = [Sent.of(group.group_id, group.outcomes, group.rewards) for group in request.groups]
    first = _first(rules, groups, reliability)
    per_sample, counted = sample_baselines(rules, groups, reliability, first, planned.baselines)
    return DecideAnswer(
        groups=decisions(
            outcome_range,
            sent,
            groups,
            planned,
            per_sample=per_sample,
            counted=counted,
            more=more,
            reasons=reasons(groups, planned, more, rules.k_max),
        ),
        prior=prior_quality(reliability, outcome_range),
    )


def _groups(request: DecideRequest) -> Groups:
    """Return the batch on the unit scale; a group without prior takes the mean of all outcomes."""
    outcome_range = request.outcome_range.core()
    outcomes = to_unit(
        outcome_range, [group.group_id for group in request.groups], [group.outcomes for group in request.groups]
    )
    flat = [value for group in outcomes for value in group]
    mean = sum(flat) / len(flat) if flat else UNKNOWN_MEAN
    supplied = [group.prior for group in request.groups]
    priors = [
        mean
        if group.prior is None
        else float(value_to_unit(outcome_range, f"group {group.group_id!r}: prior", group.prior.value))
        for group in request.groups
    ]
    errors = [
        None if prior is None or prior.standard_error is None else prior.standard_error / outcome_range.width
        for prior in supplied
    ]
    return groups_of(priors, errors, outcomes)


def _reliability(request: DecideRequest, groups: Groups) -> Reliability:
    batch = Reliability().update(groups)
    if request.squared_prior_error is None and request.within_variance is None:
        return batch
    given, outcome_range = request.squared_prior_error, request.outcome_range.core()
    error = batch.squared_prior_error if given is None else outcome_range.squared_to_unit(given)
    given = request.within_variance
    variance = batch.within_variance if given is None else outcome_range.squared_to_unit(given)
    return Reliability.known(error, variance)


def _first(rules: Rules, groups: Groups, reliability: Reliability) -> IntArray:
    """Return what each group's first wave would have been."""
    unseen = groups_of(groups.prior.tolist(), groups.prior_error.tolist(), [()] * len(groups))
    return first_wave(rules, unseen, reliability).wanted
