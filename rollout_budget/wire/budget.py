"""REST types of budgets and reservations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rollout_budget.wire.common import (
    Count,
    Finite,
    Identifier,
    LimitMode,
    NonNegative,
    Request,
    Seconds,
    WarnAt,
    Wire,
)
from rollout_budget.wire.counts import RolloutCounts

ReservationState = Literal["reserved", "committed", "released", "expired", "refused"]


LimitName = Literal[
    "rollouts",
    "rollouts_per_day",
    "rollouts_per_month",
    "rollouts_per_step",
    "tokens",
    "tokens_per_day",
    "tokens_per_month",
    "tokens_per_step",
    "gpu_seconds",
    "gpu_seconds_per_day",
    "gpu_seconds_per_month",
    "gpu_seconds_per_step",
]


class TeamLimits(Request):
    """A team's limits; null means none. Days and months are UTC, by the database's clock."""

    rollouts: Count | None = None
    rollouts_per_day: Count | None = None
    rollouts_per_month: Count | None = None
    tokens: Count | None = None
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
    gpu_seconds: Seconds | None = None
    gpu_seconds_per_day: Seconds | None = None
    gpu_seconds_per_month: Seconds | None = None
    warn_at: WarnAt = Field(default=0.8, description="Share of a limit from which on answers warn of it.")
    mode: LimitMode = Field(
        default="enforce", description="`shadow` refuses nothing and counts what it would have refused."
    )


class LimitUse(Wire):
    """One limit and what counts against it, in the unit of its name; `share` may exceed 1, of a limit of 0 it is 1."""

    level: Literal["team", "run"]
    name: LimitName
    used: NonNegative
    limit: NonNegative
    share: NonNegative


class BudgetView(Wire):
    """`GET /v1/budget`: a team's limits and where it stands.

    What is available is under the limits that refuse; it is negative after a limit was lowered below use, and null
    without such a limit or in shadow mode. `uses` has one line for every limit, `warnings` those from `warn_at` on.
    """

    team: Identifier
    limits: TeamLimits
    usage: RolloutCounts
    available: int | None
    available_tokens: int | None = None
    available_gpu_seconds: Finite | None = None
    uses: list[LimitUse] = Field(default_factory=list)
    warnings: list[LimitUse] = Field(default_factory=list)


class ReservationView(Wire):
    """`GET /v1/reservations/{id}`: what became of a grant. Ids read `run/group/attempt/wave`, each part percent-encoded."""

    reservation_id: str
    run_id: str
    rollouts: int
    used: int
    state: ReservationState
    expires_in_s: float | None = None


class HeartbeatAnswer(Wire):
    """How many leases of a run a heartbeat has renewed."""

    renewed: int
