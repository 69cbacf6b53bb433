"""Who takes part: three teams, five runs. Each shows something else on a dashboard."""

from __future__ import annotations

from dataclasses import dataclass

from rollout_budget.wire import PacingSettings, RunLimits, RunSpec, TeamLimits


@dataclass(frozen=True, slots=True)
class Line:
    """A line of runs, one after the other, of one kind.

    `spec.run_id` is the beginning of their ids, `groups` are opened in each of `steps` steps; `recurring` prompts.
    """

    team: str
    spec: RunSpec
    steps: int
    groups: int
    recurring: int
    hardness: float


TEAMS: dict[str, TeamLimits] = {
    "maths": TeamLimits(rollouts=50_000_000),
    "code": TeamLimits(rollouts_per_day=400_000, tokens_per_day=150_000_000, warn_at=0.5),
    "agents": TeamLimits(rollouts=6_000, warn_at=0.8),
}
"""`agents` is short of rollouts on purpose: it is refused some, until an admin gives it more."""

TOP_UP = 6_000
"""Rollouts that `agents` gets more each time it has run out."""

LINES: tuple[Line, ...] = (
    Line("maths", RunSpec(run_id="algebra", policy="algebra-7b"), 400, 48, 300, 1.0),
    Line(
        "maths",
        RunSpec(run_id="algebra-grpo", policy="algebra-7b-grpo", stopping="fixed", estimator="group_mean", k_init=16),
        400,
        12,
        300,
        1.0,
    ),
    Line(
        "code",
        RunSpec(
            run_id="unit-tests",
            policy="coder-3b",
            limits=RunLimits(rollouts=60_000, rollouts_per_step=160),
            pacing=PacingSettings(steps=500),
        ),
        500,
        32,
        800,
        1.5,
    ),
    Line(
        "code", RunSpec(run_id="repair", policy="coder-3b-repair", stopping="reinforce_ada_balanced"), 300, 16, 400, 2.0
    ),
    Line("agents", RunSpec(run_id="browse", policy="browser-1b", k_init=4), 300, 24, 100_000, 0.5),
)
"""Ours, GRPO for comparison, a paced budget, another stopping rule, and prompts that never come again."""
