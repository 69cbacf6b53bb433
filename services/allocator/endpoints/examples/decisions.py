"""What the allocator answers to the requests in `runs`; fractions are rounded to four digits."""

from __future__ import annotations

from rollout_budget.wire import (
    BaselinesAnswer,
    CloseAnswer,
    ClosedGroup,
    DecideAnswer,
    Decision,
    GroupBaselines,
    HeartbeatAnswer,
    Ingredients,
    ObserveAnswer,
    OpenAnswer,
    OpenedGroup,
    PlanAnswer,
    PlannedPrompt,
    PriorQuality,
)

PLANNED = PlanAnswer(
    plan_id="step0",
    candidates=3,
    prompts=[
        PlannedPrompt(
            prompt_key="p2",
            propensity=0.4552,
            importance_weight=0.7322,
            first_wave=5,
            prior=0.5,
            standard_error=0.2887,
            prior_source="prior_service",
            expected_signal=0.1379,
        )
    ],
)
OPENED = OpenAnswer(
    groups=[
        OpenedGroup(
            group_id="step0-p1",
            attempt=0,
            prior=0.5,
            standard_error=0.2887,
            prior_source="prior_service",
            evidence_version=0,
            grant=5,
            reason="first_wave",
            lease_s=900.0,
        ),
        OpenedGroup(
            group_id="step0-p2",
            attempt=0,
            prior=0.75,
            standard_error=0.1,
            prior_source="caller",
            evidence_version=0,
            grant=4,
            reason="first_wave",
            lease_s=900.0,
        ),
    ]
)
OBSERVED = ObserveAnswer(
    groups=[
        Decision(
            group_id="step0-p1",
            action="stop",
            more=0,
            reason="worth_below_price",
            baseline=0.5608,
            weight=0.7503,
            trusted=True,
            ingredients=Ingredients(prior=0.5, mean=0.6, k=5, strength=1.664, standard_error=0.1634),
            baselines=[0.5, 0.6506, 0.5, 0.5, 0.6506],
            advantages=[0.5, -0.6506, 0.5, 0.5, -0.6506],
        )
    ]
)
REMEMBERED = BaselinesAnswer(
    groups=[
        GroupBaselines(
            group_id="step0-p1",
            baseline=0.5608,
            baselines=[0.5, 0.6506, 0.5, 0.5, 0.6506],
            advantages=[0.5, -0.6506, 0.5, 0.5, -0.6506],
        )
    ]
)
RENEWED = HeartbeatAnswer(renewed=2)
CLOSED = CloseAnswer(groups=[ClosedGroup(group_id="step0-p1", committed=5, released=0, overage=0)])
DECIDED = DecideAnswer(
    groups=[
        Decision(
            group_id="a",
            action="more",
            more=2,
            reason="worth_above_price",
            baseline=0.5024,
            weight=0.5145,
            trusted=True,
            ingredients=Ingredients(prior=0.5, mean=0.5, k=2, strength=1.887, standard_error=0.2043),
            baselines=[0.3294, 0.6758],
            advantages=[0.6706, -0.6758],
        ),
        Decision(
            group_id="b",
            action="stop",
            more=0,
            reason="worth_below_price",
            baseline=0.9391,
            weight=0.5831,
            trusted=True,
            ingredients=Ingredients(prior=0.9, mean=1.0, k=2, strength=1.43, standard_error=0.09933),
            baselines=[0.9206, 0.9206],
            advantages=[0.07936, 0.07936],
        ),
    ],
    prior=PriorQuality(
        groups=2,
        squared_prior_error=0.06074,
        within_variance=0.1759,
        strength=2.896,
        brier=0.13,
        calibration_error=0.05,
        rejected_share=0.0,
    ),
)
ALL = (PLANNED, OPENED, OBSERVED, REMEMBERED, RENEWED, CLOSED, DECIDED)
