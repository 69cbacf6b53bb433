"""Who is asking: a Bearer key names its team; a service key names one by header.

Secrets are held as keyed hashes with a pepper of this process, so that a look-up compares hashes, never secrets.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BeforeValidator
from starlette.datastructures import Headers

from rollout_budget.errors import Unauthorized
from rollout_budget.wire.common import Identifier
from services.kit import keys
from services.kit.edge import bearer
from services.prior_api.settings import Settings

DEFAULT_TEAM = "default"
"""The team of a service key that names none: what a single user of an embedded service needs."""

TeamName = Annotated[Identifier, BeforeValidator(unquote)]


class Entrance:
    """Obeys `edge.Visitors`: every key is in memory here, so a known one is recalled and an unknown one refused."""

    def recall(self, app: Any, headers: Headers) -> str | None:
        """Return the team that a request is charged to, None if its key is no good."""
        try:
            return _named(app.state.door, headers)
        except Unauthorized:
            return None

    async def identify(self, app: Any, headers: Headers) -> str:
        """Return the same; `Unauthorized` says what is wrong."""
        return _named(app.state.door, headers)


def _named(door: Door, headers: Headers) -> str:
    named = headers.get("rollout-budget-team")
    return door.team(bearer(headers), None if named is None else unquote(named))


_bearer = HTTPBearer(auto_error=False, description="A team's key, or a service key with `Rollout-Budget-Team`.")


class Door:
    """Maps keys to teams."""

    def __init__(self, settings: Settings) -> None:
        self._pepper = secrets.token_hex(16)
        self._teams = {self._digest(key.get_secret_value()): team for team, key in settings.keys.items()}
        service_keys = [key.get_secret_value() for key in settings.service_keys]
        if settings.mode == "embedded":
            service_keys.append(keys.ensure_file(settings.key_file))
        self._services = {self._digest(key) for key in service_keys}

    def _digest(self, token: str) -> str:
        return keys.digest(token, self._pepper)

    def team(self, token: str | None, named: str | None) -> str:
        """Return the team that a token speaks for.

        Raises:
            Unauthorized: no token, an unknown one, or a team's key that names another team.
        """
        found = self._digest(token or "")
        if found in self._services:
            return named or DEFAULT_TEAM
        own = self._teams.get(found)
        if own is None:
            raise Unauthorized("a valid Bearer key is needed")
        if named not in (None, own):
            raise Unauthorized("this key speaks for its own team only")
        return own


def _team(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    rollout_budget_team: Annotated[
        TeamName | None, Header(description="The team that a service key speaks for, percent-encoded.")
    ] = None,
) -> str:
    door: Door = request.app.state.door
    return door.team(credentials.credentials if credentials else None, rollout_budget_team)


Team = Annotated[str, Depends(_team)]
"""Parameter type of every route with data: the team, from the key alone."""
