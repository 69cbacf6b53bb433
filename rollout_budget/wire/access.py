"""REST types of teams and keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from rollout_budget.wire.budget import TeamLimits
from rollout_budget.wire.common import Identifier, Name, Request, Wire

Scope = Literal["admin", "team", "read"]


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
