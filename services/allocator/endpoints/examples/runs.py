"""A run on verifiable sums, as its trainer asks: declared, its first step planned, opened, observed and closed."""

from __future__ import annotations

from rollout_budget.wire import (
    BaselinesRequest,
    CloseGroup,
    CloseRequest,
    DecideGroup,
    DecideRequest,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    PacingSettings,
    PlanCandidate,
    PlanRequest,
    Range,
    RunLimits,
    RunPatch,
    RunSpec,
    SuppliedPrior,
)

RUN = RunSpec(run_id="math-1", policy="qwen3-0.6b", limits=RunLimits(rollouts=1_000_000))
SIGNED = RunSpec(
    run_id="math-2",
    policy="qwen3-0.6b",
    outcome_range=Range(low=-1.0, high=1.0),
    k_init=4,
    k_max=32,
    limits=RunLimits(rollouts=50_000),
    pacing=PacingSettings(steps=200),
)
PATCH = RunPatch(price=0.002, limits=RunLimits(rollouts=2_000_000))
PLAN = PlanRequest(
    plan_id="step0",
    candidates=[
        PlanCandidate(prompt_key="p1", prompt="What is 2 + 3?"),
        PlanCandidate(prompt_key="p2", prompt="What is 17 x 23?"),
        PlanCandidate(prompt_key="p3", prior=SuppliedPrior(value=0.98, standard_error=0.01)),
    ],
    rollouts=8,
)
OPEN = OpenRequest(
    groups=[
        OpenGroup(group_id="step0-p1", prompt_key="p1", prompt="What is 2 + 3?", policy_version=0),
        OpenGroup(group_id="step0-p2", prompt_key="p2", prior=SuppliedPrior(value=0.75, standard_error=0.1)),
    ],
    lease_s=900.0,
)
OBSERVE = ObserveRequest(groups=[ObserveGroup(group_id="step0-p1", outcomes=[1.0, 0.0, 1.0, 1.0, 0.0])])
BASELINES = BaselinesRequest(group_ids=["step0-p1"])
CLOSE = CloseRequest(groups=[CloseGroup(group_id="step0-p1", used=5, tokens=640)])
DECIDE = DecideRequest(
    groups=[
        DecideGroup(group_id="a", prior=SuppliedPrior(value=0.5), outcomes=[1.0, 0.0]),
        DecideGroup(group_id="b", prior=SuppliedPrior(value=0.9), outcomes=[1.0, 1.0]),
    ],
    budget=8,
)
ALL = (RUN, SIGNED, PATCH, PLAN, OPEN, OBSERVE, BASELINES, CLOSE, DECIDE)
