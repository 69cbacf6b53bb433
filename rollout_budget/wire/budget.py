"""REST types of budgets and reservations."""

from __future__ import annotations

from typing import Literal

from rollout_budget.wire.common import Count, Identifier, Request, Wire
from rollout_budget.wire.runs import RolloutCounts

ReservationState = Literal["reserved", "committed", "released", "expired", "refused"]


class TeamLimits(Request):
    """A team's limits in rollouts; null means none. Days and months are UTC, by the database's clock."""

    rollouts: Count | None = None
    rollouts_per_day: Count | None = None
    rollouts_per_month: Count | None = None


class BudgetView(Wire):
    """`GET /v1/budget`: a team's limits and where it stands; `available` is negative after a limit was lowered."""

    team: Identifier
    limits: TeamLimits
    usage: RolloutCounts
    available: int | None


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
