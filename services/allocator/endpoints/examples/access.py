"""A team, its limits, its trainer's key, and the log of what was changed about them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from rollout_budget.wire import (
    Actor,
    Change,
    ChangesAnswer,
    Key,
    KeyCreate,
    KeyRotate,
    KeysAnswer,
    KeySecret,
    Team,
    TeamCreate,
    TeamLimits,
    TeamPatch,
    TeamsAnswer,
    TeamSummary,
)
from services.kit.examples import dumped

CREATED = datetime(2026, 11, 1, 9, 30, tzinfo=UTC)
MONTH = timedelta(days=30)

NEW_TEAM = TeamCreate(team="research", limits=TeamLimits(rollouts_per_day=200_000))
RENAME = TeamPatch(name="Research, Zurich")
LIMITS = TeamLimits(rollouts=5_000_000, rollouts_per_day=200_000, gpu_seconds_per_month=720_000.0, warn_at=0.9)
NEW_KEY = KeyCreate(team="research", scope="team", label="trainer", expires_in_s=MONTH.total_seconds())
ROTATION = KeyRotate(grace_s=86_400.0)

TEAM = Team(team=NEW_TEAM.team, name=None, created_at=CREATED, limits=NEW_TEAM.limits)
TEAMS = TeamsAnswer(teams=[TeamSummary(team=NEW_TEAM.team, name=None, created_at=CREATED)])
KEY = Key(
    key_id="d3db27364ae183df",
    team=NEW_KEY.team,
    scope=NEW_KEY.scope,
    label=NEW_KEY.label,
    created_at=CREATED,
    expires_at=CREATED + MONTH,
    revoked=False,
    status="active",
)
SECRET = KeySecret(**KEY.model_dump(), token="rb_shown-once-and-kept-by-you")  # noqa: S106  nobody's key
KEYS = KeysAnswer(keys=[KEY])
CHANGES = ChangesAnswer(
    changes=[
        Change(
            change_id=4,
            at=CREATED,
            by=Actor(key_id="settings", scope="admin", team=""),
            action="key.created",
            team=KEY.team,
            subject=f"key:{KEY.key_id}",
            before=None,
            after=dumped(KEY),
        )
    ]
)
ALL = (NEW_TEAM, RENAME, LIMITS, NEW_KEY, ROTATION, TEAM, TEAMS, SECRET, KEYS, CHANGES)
