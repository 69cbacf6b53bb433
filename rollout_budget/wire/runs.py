"""REST types of runs and their groups: `/v1/runs`, `open`, `observe`, `close`, `baselines`, and stateless `/v1/decide`.

Outcomes, priors, baselines, advantages and prices are on the caller's scale, the run's `outcome_range`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rollout_budget.wire.common import (
    MAX_GROUPS,
    MAX_PROMPT_CHARS,
    Attempt,
    Count,
    Finite,
    GroupCount,
    GroupSeconds,
    GroupSize,
    GroupTokens,
    Identifier,
    Name,
    NonNegative,
    Outcomes,
    Positive,
    Range,
    Request,
    Unit,
    Version,
    Wire,
)
from rollout_budget.wire.counts import RolloutCounts, RunLimits
from rollout_budget.wire.pacing import PacingSettings, absent, require_priced

Estimator = Literal["group_mean", "leave_one_out", "v05", "empirical_bayes", "james_stein", "ebpo", "beta_history"]
Stopping = Literal[
    "fixed",
    "osla",
    "posterior_variance",
    "dapo",
    "reinforce_ada_positive",
    "reinforce_ada_balanced",
    "vip",
    "knapsack",
]
PriorModel = Literal["gp", "tabpfn", "tabicl", "constant", "running_mean", "history"]
_SOURCE = (
    "`prior_service`: the allocator's source, the prior service or, where there is none, the prompts' own history."
)
PriorSourceName = Annotated[Literal["prior_service", "caller", "running_mean"], Field(description=_SOURCE)]
Reason = Literal[
    "worth_above_price",
    "worth_below_price",
    "k_max",
    "rule_met",
    "no_signal",
    "budget_exhausted",
    "restored",
    "first_wave",
    "closed",
    "local_fallback",
]


class DecisionSettings(Request):
    """How groups are fused and stopped. Shared by a run and by the stateless `/decide`."""

    outcome_range: Range = Range()
    estimator: Estimator = "empirical_bayes"
    stopping: Stopping = "posterior_variance"
    price: NonNegative | None = Field(
        default=None,
        description="Marginal cost of a rollout, in squared error on the outcome scale; "
        "by default 1/8^2 on a {-1, +1} scale, mapped to this range; for the rule `osla` the V0.5 paper's 1/16^2.",
    )
    k_init: GroupSize | Literal["auto"] = Field(
        default="auto",
        description="Rollouts of the first wave; `auto` sizes it by what the prior has proved to be worth.",
    )
    k_max: GroupSize = 16
    advantage_samples: Literal["all", "first_wave"] = Field(
        default="all",
        description="Samples whose advantage is non-zero: a reward-dependent stop biases later waves a little.",
    )

    @model_validator(mode="after")
    def _fits(self) -> DecisionSettings:
        if isinstance(self.k_init, int) and self.k_init > self.k_max:
            raise ValueError(f"k_init {self.k_init} exceeds k_max {self.k_max}")
        return self


class RunSpec(DecisionSettings):
    """A run as its owner declares it; `run_id` is minted by the caller and makes the call safe to repeat."""

    run_id: Identifier
    name: Name | None = None
    policy: Identifier
    prior_model: PriorModel = "gp"
    warm_start: Identifier | None = Field(
        default=None,
        description="Another run of this team, of the same policy family and prior model: what it has learned about "
        "its prior so far is what this run starts from, counting for 128 groups at most.",
    )
    reference_group_size: GroupSize = Field(default=16, description="Fixed group size that savings are stated against.")
    limits: RunLimits = RunLimits()
    pacing: PacingSettings | None = Field(
        default=None,
        exclude_if=absent,
        description="Set the price from what is left of a budget. A `price` set by hand wins.",
    )

    @model_validator(mode="after")
    def _paced(self) -> RunSpec:
        if self.pacing is not None:
            require_priced(self.stopping)
        return self


class RunPatch(Request):
    """Changes to a running run; absent fields stay. `limits` is replaced as a whole: one that it leaves out is lifted.

    Lowering a limit below use only stops new grants. `pacing` without `price` takes back a price set by hand.
    """

    price: NonNegative | None = None
    limits: RunLimits | None = None
    pacing: PacingSettings | None = Field(default=None, exclude_if=absent)


class PriorQuality(Wire):
    """What the run has learned about its prior, on the outcome scale."""

    groups: int
    squared_prior_error: NonNegative | None = None
    within_variance: NonNegative | None = None
    strength: NonNegative | None = Field(default=None, description="Pseudo-rollouts a prior counts for (m).")
    explained_variance: Finite | None = None
    brier: NonNegative | None = None
    calibration_error: NonNegative | None = None
    rejected_share: Unit | None = Field(default=None, description="Share of groups whose prior was not trusted.")


class Run(Wire):
    """A run with what it has used so far."""

    spec: RunSpec
    status: Literal["running", "finished"]
    usage: RolloutCounts
    prior: PriorQuality
    price: NonNegative | None = Field(
        default=None, description="Price in force: set by hand, paced, or the stopping rule's own."
    )


class SuppliedPrior(Request):
    """A caller's own prior, on the outcome scale."""

    value: Finite
    standard_error: NonNegative | None = None


class OpenGroup(Request):
    """One group to open. The same (group_id, attempt) with the same body gets the same answer again."""

    group_id: Identifier
    attempt: Attempt = 0
    prompt_key: Identifier
    prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARS)] | None = Field(
        default=None, description="Text of the prompt; needed the first time the prior service sees its key."
    )
    prior: SuppliedPrior | None = None
    policy: Identifier | None = Field(default=None, description="Policy, if not the run's own.")
    policy_version: Version = 0
    step: Version | None = Field(default=None, description="Training step, for a limit per step.")
    plan_id: Identifier | None = Field(
        default=None,
        description="Plan that chose the prompt: its first wave is granted, its importance weight answered.",
    )


class OpenRequest(Request):
    """Groups to open in one call."""

    groups: Annotated[list[OpenGroup], Field(min_length=1, max_length=MAX_GROUPS)]
    lease_s: Annotated[float, Field(gt=0, le=86_400, strict=True)] = Field(
        default=900.0,
        description="How long the grants are held for the caller; observe renews them once an eighth of it is gone.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> OpenRequest:
        require_distinct([group.group_id for group in self.groups])
        return self


class OpenedGroup(Wire):
    """The frozen prior of a group and its first grant."""

    group_id: Identifier
    attempt: int
    prior: Finite
    standard_error: NonNegative | None
    prior_source: PriorSourceName
    evidence_version: int
    grant: GroupCount = Field(description="Rollouts to draw in wave 0; 0 when the budget is gone.")
    reason: Reason
    lease_s: float
    importance_weight: NonNegative = Field(
        default=1.0, description="What to multiply the group's loss by, for the mean over all candidates of its plan."
    )


class OpenAnswer(Wire):
    """Answer to `open`; `degraded` says that the prior service could not be used, `detail` why.

    `warnings` names the limits that are nearly reached, one line each, `team rollouts_per_day: ...`; they are of now,
    so a repeated request, which takes nothing, has none.
    """

    groups: list[OpenedGroup]
    degraded: bool = False
    detail: str = ""
    warnings: list[str] = Field(default_factory=list)


class ObserveGroup(Request):
    """All outcomes of a group so far, in any order; `rewards`, if given, are what advantages are formed from."""

    group_id: Identifier
    attempt: Attempt = 0
    outcomes: Outcomes
    rewards: Outcomes | None = None

    @model_validator(mode="after")
    def _aligned(self) -> ObserveGroup:
        require_aligned(self.outcomes, self.rewards)
        return self


class ObserveRequest(Request):
    """Outcomes of many groups."""

    groups: Annotated[list[ObserveGroup], Field(min_length=1, max_length=MAX_GROUPS)]

    @model_validator(mode="after")
    def _distinct(self) -> ObserveRequest:
        require_distinct([group.group_id for group in self.groups])
        return self


class Ingredients(Wire):
    """What a decision was made from, on the outcome scale."""

    prior: Finite
    mean: Finite | None
    k: GroupCount
    strength: NonNegative
    standard_error: NonNegative | None


class Decision(Wire):
    """Stop, or draw `more` rollouts (already reserved); the baseline of what was drawn so far either way."""

    group_id: Identifier
    action: Literal["stop", "more"]
    more: GroupCount
    reason: Reason
    baseline: Finite
    weight: Unit = Field(description="Weight of the group's own mean in the baseline; the prior has the rest.")
    trusted: bool
    ingredients: Ingredients
    baselines: list[Finite] = Field(description="What is subtracted from each sample, in the order they were sent.")
    advantages: list[Finite]


class ObserveAnswer(Wire):
    """One decision per group, in the order of the request."""

    groups: list[Decision]


class CloseGroup(Request):
    """End of a group: how many rollouts were really drawn. Their outcomes become evidence unless `discard`."""

    group_id: Identifier
    attempt: Attempt = 0
    used: GroupCount
    outcomes: Outcomes | None = Field(
        default=None, description="Final outcomes, where they differ from those observed."
    )
    tokens: GroupTokens | None = Field(default=None, description="Used by all rollouts of the group.")
    seconds: GroupSeconds | None = Field(default=None, description="GPU-seconds of all rollouts of the group.")
    discard: bool = False


class CloseRequest(Request):
    """Groups to close in one call; the same (group_id, attempt) closes once."""

    groups: Annotated[list[CloseGroup], Field(min_length=1, max_length=MAX_GROUPS)]

    @model_validator(mode="after")
    def _distinct(self) -> CloseRequest:
        require_distinct([group.group_id for group in self.groups])
        return self


class ClosedGroup(Wire):
    """Where a group's rollouts went."""

    group_id: Identifier
    committed: GroupCount
    released: GroupCount
    overage: GroupCount = Field(description="Drawn beyond what was held: booked, visible, never silent.")


class CloseAnswer(Wire):
    """One line per group, in the order of the request."""

    groups: list[ClosedGroup]


class BaselinesRequest(Request):
    """Group ids whose baselines are wanted, for trainers whose hook sees nothing else."""

    group_ids: Annotated[list[Identifier], Field(min_length=1, max_length=MAX_GROUPS)]

    @model_validator(mode="after")
    def _distinct(self) -> BaselinesRequest:
        require_distinct(self.group_ids)
        return self


class GroupBaselines(Wire):
    """The last decision of a group, as far as a loss needs it."""

    group_id: Identifier
    baseline: Finite
    baselines: list[Finite]
    advantages: list[Finite]
    importance_weight: NonNegative = 1.0


class BaselinesAnswer(Wire):
    """One line per id, in the order of the request."""

    groups: list[GroupBaselines]


class DecideGroup(Request):
    """A group of the stateless `/decide`; without `prior` the mean of the batch serves as prior."""

    group_id: Identifier
    prior: SuppliedPrior | None = None
    outcomes: Outcomes = Field(default_factory=list)
    rewards: Outcomes | None = None

    @model_validator(mode="after")
    def _aligned(self) -> DecideGroup:
        require_aligned(self.outcomes, self.rewards)
        return self


class DecideRequest(DecisionSettings):
    """Priors and outcomes in, decisions out: no run, no ledger, nothing stored."""

    groups: Annotated[list[DecideGroup], Field(min_length=1, max_length=MAX_GROUPS)]
    squared_prior_error: NonNegative | None = Field(
        default=None,
        description="Pooled squared error of the priors, on the outcome scale; estimated from the batch if absent.",
    )
    within_variance: Positive | None = None
    budget: Count | None = Field(default=None, description="Most further rollouts over all groups.")

    @model_validator(mode="after")
    def _distinct(self) -> DecideRequest:
        require_distinct([group.group_id for group in self.groups])
        return self


class DecideAnswer(Wire):
    """One decision per group, and the pooled figures that were used."""

    groups: list[Decision]
    prior: PriorQuality


def require_distinct(ids: Sequence[str]) -> None:
    """Raise ValueError where an id occurs twice in a batch."""
    if len(set(ids)) != len(ids):
        twice = next(item for item in ids if ids.count(item) > 1)
        raise ValueError(f"id {twice!r} occurs twice in one request")


def require_aligned(outcomes: Sequence[float], rewards: Sequence[float] | None) -> None:
    """Raise ValueError where rewards are given, but not one per outcome."""
    if rewards is not None and len(rewards) != len(outcomes):
        raise ValueError(f"{len(outcomes)} outcomes but {len(rewards)} rewards")
