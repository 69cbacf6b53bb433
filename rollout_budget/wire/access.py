"""REST types of teams, keys, and the log of what was changed about them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from rollout_budget.wire.budget import TeamLimits
from rollout_budget.wire.common import Identifier, Name, Request, Wire

Scope = Literal["admin", "team", "read"]
KeyStatus = Literal["active", "expired", "revoked"]
Action = Literal[
    "team.created",
    "team.renamed",
    "team.closed",
    "team.reopened",
    "budget.set",
    "run.patched",
    "key.created",
    "key.rotated",
    "key.revoked",
]

YEAR_S = 365 * 86_400
MAX_GRACE_S = 30 * 86_400
"""Longest time that a rotated key may live on: a month to reach the last trainer."""
MAX_PAGE = 500
"""Most teams, keys or changes in one answer."""


class TeamCreate(Request):
    """A team to create; the same id with the same body is safe to repeat."""

    team: Identifier
    name: Name | None = None
    limits: TeamLimits = TeamLimits()


class TeamPatch(Request):
    """A team's new name for people; its id never changes."""

    name: Name


class TeamSummary(Wire):
    """A team in a list."""

    team: Identifier
    name: str | None
    created_at: datetime
    closed_at: datetime | None = Field(default=None, description="Since when it is closed; null while it is open.")


class Team(TeamSummary):
    """A team and its limits."""

    limits: TeamLimits


class TeamsAnswer(Wire):
    """`GET /v1/admin/teams`: teams in the order of their ids."""

    teams: list[TeamSummary]
    next: str | None = Field(default=None, description="Send it as `after` for the next page; null on the last.")


class KeyCreate(Request):
    """A key to create for a team."""

    team: Identifier
    scope: Scope = "team"
    label: Name | None = None
    expires_in_s: Annotated[float, Field(gt=0, le=10 * YEAR_S)] | None = None


class KeyRotate(Request):
    """How long the old key lives on beside the new one; 0 ends it at once. It never lives longer than it would have."""

    grace_s: Annotated[float, Field(ge=0, le=MAX_GRACE_S, strict=True)] = 3600.0


class Key(Wire):
    """A key without its secret."""

    key_id: str
    team: str
    scope: Scope
    label: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked: bool
    status: KeyStatus = Field(description="By the database's clock, at the moment of the answer.")
    replaces: str | None = Field(default=None, description="The key that was rotated into this one.")


class KeysAnswer(Wire):
    """`GET /v1/admin/keys`: keys in the order of their creation."""

    keys: list[Key]
    next: str | None = Field(default=None, description="Send it as `after` for the next page; null on the last.")


class KeySecret(Key):
    """A new key with its secret, shown this once."""

    token: str


class Actor(Wire):
    """Whose key made a change: `settings` is the admin key of the service's settings, `service` the service itself."""

    key_id: str
    scope: Scope
    team: str


class Change(Wire):
    """One change to a team, a budget, a run's limits or price, or a key. Never holds a token."""

    change_id: int
    at: datetime = Field(description="By the database's clock.")
    by: Actor
    action: Action
    team: str
    subject: str = Field(description="`team:ID`, `budget:TEAM`, `run:ID` or `key:ID`.")
    before: dict[str, Any] | None = Field(description="What stood before; null for what is new.")
    after: dict[str, Any]


class ChangesAnswer(Wire):
    """Changes in the order in which they were committed."""

    changes: list[Change]
    next: int | None = Field(default=None, description="Send it as `after` for the next page; null on the last.")
