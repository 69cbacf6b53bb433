"""REST types of budgets, usage, reservations, teams and keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from rollout_budget.wire.common import Count, Identifier, Name, Request, Wire
from rollout_budget.wire.runs import RolloutCounts

Scope = Literal["admin", "team", "read"]
Dimension = Literal["team", "run", "day"]
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


class UsageRow(Wire):
    """One row of `GET /v1/usage`; a dimension that was not asked for is null."""

    team: str | None = None
    run: str | None = None
    day: str | None = None
    counts: RolloutCounts


class UsageAnswer(Wire):
    """Rows in the order of their dimensions."""

    rows: list[UsageRow]


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


class TeamCreate(Request):
    """A team to create; the same id with the same body is safe to repeat."""

    team: Identifier
    name: Name | None = None
    limits: TeamLimits = TeamLimits()


class Team(Wire):
    """A team and its limits."""

    team: Identifier
    name: str | None
    limits: TeamLimits


class KeyCreate(Request):
    """A key to create for a team."""

    team: Identifier
    scope: Scope = "team"
    label: Name | None = None
    expires_in_s: Annotated[float, Field(gt=0, le=10 * 365 * 86_400)] | None = None


class Key(Wire):
    """A key without its secret."""

    key_id: str
    team: str
    scope: Scope
    label: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked: bool


class KeysAnswer(Wire):
    """`GET /v1/admin/keys`: keys in the order of their creation."""

    keys: list[Key]


class KeySecret(Key):
    """A new key with its secret, shown this once."""

    token: str
