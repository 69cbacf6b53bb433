"""Who is asking: the team comes from the Bearer key alone, never from a path, a body or a header beside it (G14).

Routes state what they need by the type of a parameter: `Reader`, `Writer` or `Admin`.
"""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers

from rollout_budget.errors import Unauthorized
from services.allocator.database.keyring import Keyring
from services.allocator.errors import Forbidden
from services.allocator.identity import SETTINGS, Identity
from services.kit.edge import bearer
from services.kit.keys import PREFIX, digest
from services.kit.session import Database

Permission = Literal["read", "write", "admin"]
PERMISSIONS: Mapping[str, frozenset[Permission]] = {
    "read": frozenset({"read"}),
    "team": frozenset({"read", "write"}),
    "admin": frozenset({"admin"}),
}
"""What a scope may do. An admin key opens no team's runs: whoever needs both holds two keys. No team key makes, rotates
or ends keys: a stolen one could keep itself alive and lock its owner out."""

CACHE_S = 5.0
"""How long a key that was found is trusted: a key revoked on one process dies on all within this."""
CACHE_KEYS = 1024
"""Keys remembered at most: one per trainer and dashboard, with room."""
RECALLED_KEYS = 16_384
"""Keys whose team the edge remembers, at most: 2 MB, and more than one process serves."""
MAX_TOKEN_CHARS = 256
"""Longer than any token of ours; anything above is not looked up."""


class Door:
    """Maps tokens to identities."""

    def __init__(self, database: Database, pepper: str, admin_key: str) -> None:
        self._database = database
        self._pepper = pepper
        self._admin_digest = digest(admin_key, pepper)
        self._cache: OrderedDict[str, tuple[Identity, float]] = OrderedDict()
        self._forgotten = 0
        """How often all that was found was forgotten."""
        self._teams: OrderedDict[str, str] = OrderedDict()
        """Teams of keys that were good when last looked up: whom the edge charges (G13), never whom a route trusts."""

    async def identify(self, token: str) -> Identity:
        """Return whose token this is.

        Raises:
            Unauthorized: it is unknown, expired or revoked.
        """
        hashed = digest(token, self._pepper)
        if hmac.compare_digest(hashed, self._admin_digest):
            return SETTINGS
        found, until = self._cache.get(hashed, (None, 0.0))
        if found is None or time.monotonic() >= until:
            found = await self._look_up(hashed) if token.startswith(PREFIX) and len(token) <= MAX_TOKEN_CHARS else None
        if found is None:
            raise Unauthorized("a valid Bearer key is needed")
        return found

    async def holder(self, key_id: str) -> Identity | None:
        """Return whose key has this id now, None once it has ended; looked up afresh each time."""
        if key_id == SETTINGS.key_id:
            return SETTINGS
        async with self._database.snapshot() as connection:
            row = await Keyring(connection, self._pepper).holder(key_id)
        return None if row is None else Identity(team=row.team, scope=row.scope, key_id=row.key_id)

    def seal(self, text: str) -> str:
        """Return a keyed hash of `text` that nobody else can make; with another pepper or admin key it is another."""
        return digest(f"{self._admin_digest} {text}", self._pepper)

    def recall(self, token: str) -> str | None:
        """Return the team of a key that was good when it was last looked up; asks nobody."""
        hashed = digest(token, self._pepper)
        if hmac.compare_digest(hashed, self._admin_digest):
            return SETTINGS.team
        team = self._teams.get(hashed)
        if team is not None:
            self._teams.move_to_end(hashed)
        return team

    def forget(self) -> None:
        """Look every key up again: one was revoked or rotated."""
        self._cache.clear()
        self._forgotten += 1

    async def _look_up(self, hashed: str) -> Identity | None:
        asked = time.monotonic()
        forgotten = self._forgotten
        async with self._database.snapshot() as connection:
            row = await Keyring(connection, self._pepper).find(hashed)
        if row is None:
            self._teams.pop(hashed, None)  # whoever holds a key that has ended spends its team's rates no more
            return None
        found = Identity(team=row.team, scope=row.scope, key_id=row.key_id)
        trusted_s = CACHE_S if row.left_s is None else min(CACHE_S, row.left_s)
        if forgotten == self._forgotten:  # else this may be one that was revoked while it was looked up
            self._cache[hashed] = (found, asked + trusted_s)
        self._teams[hashed] = row.team
        if len(self._teams) > RECALLED_KEYS:
            self._teams.popitem(last=False)
        if len(self._cache) > CACHE_KEYS:
            self._cache.popitem(last=False)
        return found


class Entrance:
    """Obeys `edge.Visitors`: whose key a request bears, before its body is read."""

    def recall(self, app: Any, headers: Headers) -> str | None:
        """Return the team of a key that was good once."""
        door: Door = app.state.service.door
        return door.recall(bearer(headers))

    async def identify(self, app: Any, headers: Headers) -> str:
        """Return the team of a key; `Unauthorized` if it has none."""
        door: Door = app.state.service.door
        return (await door.identify(bearer(headers))).team


_bearer = HTTPBearer(auto_error=False, description="`rb_...`, made by `POST /v1/admin/keys`.")


def _needs(permission: Permission) -> Callable[..., object]:
    async def check(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Identity:
        door: Door = request.app.state.service.door
        identity = await door.identify(credentials.credentials if credentials else "")
        if permission not in PERMISSIONS[identity.scope]:
            raise Forbidden(f"a key of scope {identity.scope!r} may not {permission} here")
        return identity

    return check


Reader = Annotated[Identity, Depends(_needs("read"))]
Writer = Annotated[Identity, Depends(_needs("write"))]
Admin = Annotated[Identity, Depends(_needs("admin"))]
