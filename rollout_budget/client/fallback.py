"""What is decided while the allocator is away: the run's own rules, in this process, with a bounded spend. Pure.

A group that opens now gets the first wave of its run's rules (`k_init` rollouts, or as many as `auto` finds worth their
price); a group that is open finishes what it holds. No group gets more: nobody keeps the budget meanwhile. Baselines
and advantages are those of the run's estimator, from the frozen prior of the group (for groups opened now the caller's
own, or else the run's running mean) and from what this process has seen of the run.

Prompts are chosen uniformly: without the service's priors there is nothing to prefer one by. Their groups weigh 1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rollout_budget.client.journal import LOCAL, Entry, Key, Recent
from rollout_budget.decisions import Rules, first_wave
from rollout_budget.engine.freezing import UNKNOWN_MEAN, Fetched, fetch_key, freeze
from rollout_budget.engine.planning import PLANS_KEPT
from rollout_budget.engine.planning import decide as choose
from rollout_budget.engine.records import RunRecord
from rollout_budget.engine.stateless import decide
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.wire import (
    DecideGroup,
    DecideRequest,
    Decision,
    DecisionSettings,
    ObserveGroup,
    OpenAnswer,
    OpenedGroup,
    OpenGroup,
    OpenRequest,
    PlanAnswer,
    PlannedPrompt,
    PlanRequest,
    RunSpec,
    SuppliedPrior,
)

RESTORED = "first waves of this process's own: the service was restored from a backup and grants nothing yet"
SMALLEST_VARIANCE = 1e-12
"""Stands in for a within-group variance of 0, unit scale, where a positive one must be stated."""


@dataclass(slots=True)
class Memory:
    """What this process has seen of one run.

    Attributes:
        spec: the run as declared.
        reliability: learned from every group that was closed here, with its first wave.
        decisions: the last decision of recent groups, for `baselines`.
        weights: importance weights of recent groups, likewise.
        plans: the newest plans, the service's and those made here (`own_plans`).
        known: ids of recent plans, many more of them; `gone`: of those, what the service does not keep.
    """

    spec: RunSpec
    reliability: Reliability = field(default_factory=Reliability)
    decisions: Recent[str, Decision] = field(default_factory=Recent)
    weights: Recent[str, float] = field(default_factory=Recent)
    plans: OrderedDict[str, PlanAnswer] = field(default_factory=OrderedDict)
    own_plans: set[str] = field(default_factory=set)
    known: Recent[str, None] = field(default_factory=Recent)
    gone: Recent[str, None] = field(default_factory=Recent)

    def plan(self, request: PlanRequest, reason: str) -> PlanAnswer:
        """Choose uniformly among the candidates, with the chances of that.

        Raises:
            InvalidInput: a caller's prior lies outside the outcome range.
        """
        run = RunRecord("", self.spec, self.reliability)
        unknown = {fetch_key(run, candidate): Fetched(None) for candidate in request.candidates}
        priors = freeze(run, [f"prompt {one.prompt_key!r}" for one in request.candidates], request.candidates, unknown)
        chosen = choose(self.spec, self.reliability, request, priors, exploration=1.0)
        self.own_plans.add(request.plan_id)
        return self.planned(chosen.model_copy(update={"degraded": True, "detail": reason}))

    def planned(self, answer: PlanAnswer) -> PlanAnswer:
        """Remember a plan, and no more than the service would."""
        self.plans[answer.plan_id] = answer
        self.known[answer.plan_id] = None
        if len(self.plans) > PLANS_KEPT:
            oldest = self.plans.popitem(last=False)[0]
            if oldest in self.own_plans:
                self.own_plans.remove(oldest)
                self.gone[oldest] = None
        return answer

    def told(self, group: OpenGroup) -> OpenGroup:
        """Return what the service is told of a group: it knows no plan that was made here, nor one that is gone."""
        strange = group.plan_id in self.own_plans or group.plan_id in self.gone
        return group.model_copy(update={"plan_id": None}) if strange else group

    def without_plans(self, request: OpenRequest) -> OpenRequest | None:
        """Return a request without the plans that were known here: the service keeps them no longer. None without any."""
        lost = [group.plan_id for group in request.groups if group.plan_id is not None and group.plan_id in self.known]
        self.gone.update(dict.fromkeys(lost))
        return request.model_copy(update={"groups": [self.told(one) for one in request.groups]}) if lost else None

    def open(self, opening: Sequence[OpenGroup], lease_s: float) -> list[OpenedGroup]:
        """Grant the first wave of each group.

        Raises:
            InvalidInput: a caller's prior lies outside the outcome range.
        """
        priors = [group.prior or self._running_mean() for group in opening]
        outcome_range = self.spec.outcome_range.core()
        groups = Groups.of([prior.value for prior in priors], [[] for _ in priors], outcome_range=outcome_range)
        grants = first_wave(Rules.of(self.spec), groups, self.reliability).wanted.tolist()
        planned = self._planned(opening)
        return [
            OpenedGroup(
                group_id=group.group_id,
                attempt=group.attempt,
                prior=prior.value,
                standard_error=prior.standard_error,
                prior_source="running_mean" if group.prior is None else "caller",
                evidence_version=0,
                grant=grant if plan is None else plan.first_wave,
                reason=LOCAL,
                lease_s=lease_s,
                importance_weight=1.0 if plan is None else plan.importance_weight,
            )
            for group, prior, grant, plan in zip(opening, priors, grants, planned, strict=True)
        ]

    def unwithheld(self, answer: OpenAnswer, named: Mapping[Key, OpenGroup], lease_s: float) -> OpenAnswer:
        """Give their first wave to groups that got nothing because the service was restored from a backup.

        What they draw is booked as overage: a trainer goes on, and the books know what it took.
        """
        withheld = [group for group in answer.groups if group.reason == "restored"]
        if not withheld:
            return answer
        ours = self.open([named[Key(group.group_id, group.attempt)] for group in withheld], lease_s)
        own = {Key(group.group_id, group.attempt): group for group in ours}
        groups = [own.get(Key(group.group_id, group.attempt), group) for group in answer.groups]
        return answer.model_copy(update={"groups": groups, "degraded": True, "detail": RESTORED})

    def decide(self, groups: Sequence[tuple[Entry, ObserveGroup]]) -> list[Decision]:
        """Give the baselines and advantages of groups that end with what they have drawn.

        Raises:
            InvalidInput: an outcome lies outside the range.
        """
        outcome_range = self.spec.outcome_range.core()
        question = DecideRequest(
            **{name: getattr(self.spec, name) for name in DecisionSettings.model_fields},
            groups=[
                DecideGroup(
                    group_id=seen.group_id, prior=self._frozen(entry), outcomes=seen.outcomes, rewards=seen.rewards
                )
                for entry, seen in groups
            ],
            squared_prior_error=outcome_range.squared_from_unit(self.reliability.squared_prior_error),
            within_variance=outcome_range.squared_from_unit(max(self.reliability.within_variance, SMALLEST_VARIANCE)),
            budget=0,
        )
        return [decision.model_copy(update={"reason": LOCAL}) for decision in decide(question).groups]

    def learn(self, closed: Iterable[Entry]) -> None:
        """Take in groups that were closed: each once, with its prior and the outcomes of its first wave."""
        scored = [
            (entry.opened, outcomes) for entry in closed if entry.opened is not None and (outcomes := _final(entry))
        ]
        if scored:
            priors = [opened.prior for opened, _ in scored]
            first = [outcomes[: opened.grant] for opened, outcomes in scored]
            groups = Groups.of(priors, first, outcome_range=self.spec.outcome_range.core())
            self.reliability = self.reliability.update(groups)

    def _planned(self, groups: Sequence[OpenGroup]) -> list[PlannedPrompt | None]:
        """Return what the service's plans said of groups, None of those that name none."""
        named = {group.plan_id for group in groups if group.plan_id is not None and group.plan_id in self.plans}
        prompts = {(name, prompt.prompt_key): prompt for name in named for prompt in self.plans[name].prompts}
        return [prompts.get((group.plan_id or "", group.prompt_key)) for group in groups]

    def _frozen(self, entry: Entry) -> SuppliedPrior:
        if entry.opened is None:
            return self._running_mean()
        return SuppliedPrior(value=entry.opened.prior, standard_error=entry.opened.standard_error)

    def _running_mean(self) -> SuppliedPrior:
        """Return the mean outcome of the run, or the middle of its range before the first."""
        learned = self.reliability.running_mean
        mean = UNKNOWN_MEAN if learned is None else learned
        return SuppliedPrior(value=float(self.spec.outcome_range.core().from_unit(mean)))


def _final(entry: Entry) -> list[float]:
    """Return the outcomes that a group was closed with; none where they are discarded or were never seen here."""
    if entry.closing is None or entry.closing.discard:
        return []
    if entry.closing.outcomes is not None:
        return entry.closing.outcomes
    return entry.observed.outcomes if entry.observed is not None else []
