"""Teams and keys: who there is, and what opens the door for them.

A key is stored as HMAC-SHA256 under the service's pepper and cannot be read back (G15). Its token is derived from the
pepper, a random key id and the Idempotency-Key of its creation, none of which alone tells it. So a creation whose
answer was lost can be repeated and answers the same token, while the database holds nothing to answer it from.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Any

from sqlalchemy import Row, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.engine.ids import fingerprint
from rollout_budget.errors import Conflict, NotFound
from rollout_budget.wire import Key, KeyCreate, KeySecret, Team, TeamCreate
from services.allocator.database.clock import now_s
from services.allocator.database.ledger import SqlLedger
from services.allocator.database.tables import idempotency, keys, teams
from services.kit.keys import PREFIX, digest
from services.kit.session import insert

KEY_ID_BYTES = 8
"""Random bytes of a key's public name: no two of a billion keys share one."""


class Directory:
    """Teams and keys inside one transaction."""

    def __init__(self, connection: AsyncConnection, pepper: str) -> None:
        self._connection = connection
        self._pepper = pepper

    async def add_team(self, request: TeamCreate) -> Team:
        """Create a team with its limits; the same request again changes nothing and answers the team as it stands.

        Raises:
            Conflict: the id was used before with another body.
        """
        row = {"team": request.team, "name": request.name, "fingerprint": fingerprint(request), "created_s": now_s()}
        statement = insert(self._connection, teams).values(row).on_conflict_do_nothing().returning(teams.c.team)
        created = await self._connection.scalar(statement) is not None
        ledger = SqlLedger(self._connection)
        if created:
            await ledger.set_team_limits(request.team, request.limits)
        stored = await self.team(request.team)
        if stored.fingerprint != row["fingerprint"]:
            raise Conflict(f"team {request.team!r} was created before with another body")
        return Team(team=stored.team, name=stored.name, limits=(await ledger.budget(request.team)).limits)

    async def team(self, team: str) -> Row[Any]:
        """Return a team's row.

        Raises:
            NotFound: there is no such team.
        """
        row = (await self._connection.execute(select(teams).where(teams.c.team == team))).one_or_none()
        if row is None:
            raise NotFound(f"no team {team!r}")
        return row

    async def create_key(self, request: KeyCreate, idempotency_key: str) -> KeySecret:
        """Create a key, once per Idempotency-Key.

        Raises:
            Conflict: the Idempotency-Key was used before with another body.
            NotFound: there is no such team.
        """
        await self.team(request.team)
        key_id, body = secrets.token_hex(KEY_ID_BYTES), fingerprint(request)
        once = digest(f"idempotency {idempotency_key}", self._pepper)
        row = {"digest": once, "fingerprint": body, "key_id": key_id, "created_s": now_s()}
        claim = insert(self._connection, idempotency).values(row).on_conflict_do_nothing()
        first = await self._connection.scalar(claim.returning(idempotency.c.digest)) is not None
        stored = (await self._connection.execute(select(idempotency).where(idempotency.c.digest == once))).one()
        if stored.fingerprint != body:
            raise Conflict("this Idempotency-Key was used before with another body")
        token = self._token(stored.key_id, idempotency_key)
        if first:
            await self._store_key(key_id, token, request)
        return KeySecret(**(await self._key(stored.key_id)).model_dump(), token=token)

    async def ensure_key(self, request: KeyCreate, token: str) -> None:
        """Store a key whose token was made outside (the embedded mode's key file), unless it is there."""
        known = select(keys.c.key_id).where(keys.c.digest == digest(token, self._pepper))
        if await self._connection.scalar(known) is None:
            await self._store_key(secrets.token_hex(KEY_ID_BYTES), token, request)

    async def keys(self) -> list[Key]:
        """Return all keys of all teams, oldest first."""
        rows = await self._connection.execute(select(keys).order_by(keys.c.created_s, keys.c.key_id))
        return [_as_key(row) for row in rows]

    async def revoke(self, key_id: str) -> Key:
        """Revoke a key; again changes nothing.

        Raises:
            NotFound: there is no such key.
        """
        live = (keys.c.key_id == key_id) & keys.c.revoked_s.is_(None)
        await self._connection.execute(update(keys).where(live).values(revoked_s=now_s()))
        return await self._key(key_id)

    async def find(self, token_digest: str) -> Row[Any, Any, Any, Any] | None:
        """Return team, scope, id and seconds left (None: without end) of the live key of this digest."""
        live = keys.c.revoked_s.is_(None) & or_(keys.c.expires_s.is_(None), keys.c.expires_s > now_s())
        left = (keys.c.expires_s - now_s()).label("left_s")
        query = select(keys.c.team, keys.c.scope, keys.c.key_id, left).where(keys.c.digest == token_digest, live)
        return (await self._connection.execute(query)).one_or_none()

    async def _key(self, key_id: str) -> Key:
        row = (await self._connection.execute(select(keys).where(keys.c.key_id == key_id))).one_or_none()
        if row is None:
            raise NotFound(f"no key {key_id!r}")
        return _as_key(row)

    async def _store_key(self, key_id: str, token: str, request: KeyCreate) -> None:
        expires = None if request.expires_in_s is None else now_s() + request.expires_in_s
        row = {
            "key_id": key_id,
            "team": request.team,
            "scope": request.scope,
            "label": request.label,
            "digest": digest(token, self._pepper),
            "created_s": now_s(),
            "expires_s": expires,
        }
        await self._connection.execute(insert(self._connection, keys).values(row))

    def _token(self, key_id: str, idempotency_key: str) -> str:
        secret = hmac.new(self._pepper.encode(), f"token {key_id} {idempotency_key}".encode(), hashlib.sha256).digest()
        return PREFIX + base64.urlsafe_b64encode(secret).decode().rstrip("=")


def _as_key(row: Row[Any]) -> Key:
    return Key(
        key_id=row.key_id,
        team=row.team,
        scope=row.scope,
        label=row.label,
        created_at=row.created_s,
        expires_at=row.expires_s,
        revoked=row.revoked_s is not None,
    )
