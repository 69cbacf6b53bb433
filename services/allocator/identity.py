"""Who acts: the key behind a request, as routes, the directory and the log of changes know it."""

from __future__ import annotations

from dataclasses import dataclass

from rollout_budget.wire.access import Scope


@dataclass(frozen=True, slots=True)
class Identity:
    """A key that was accepted. `team` is empty for the admin key of the settings and for the service itself."""

    team: str
    scope: Scope
    key_id: str


SETTINGS = Identity(team="", scope="admin", key_id="settings")
"""The admin key of the settings: it is in no table."""
SERVICE = Identity(team="", scope="admin", key_id="service")
"""The service itself, which makes a team and a key when it starts embedded."""
