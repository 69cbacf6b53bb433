"""Keys: what opens the door, for whom, and until when.

A key is stored as HMAC-SHA256 under the service's pepper and cannot be read back (G15). Its token is derived from the
pepper, a random key id and the Idempotency-Key of its creation, none of which alone tells it. So a creation whose
answer was lost can be repeated and answers the same token, while the database holds nothing to answer it from.

An Idempotency-Key is held by the database alone, so that any replica may get the repetition: on PostgreSQL a second
request is told at once that its twin is still running, on SQLite it waits for its turn and gets the same answer.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Any

from sqlalchemy import Row, and_, case, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.engine.ids import fingerprint
from rollout_budget.errors import Conflict, InvalidInput, NotFound
from rollout_budget.wire import Key, KeyCreate, KeyRotate, KeysAnswer, KeySecret
from services.allocator.database import closures
from services.allocator.database.changes import Changes
from services.allocator.database.clock import now_s
from services.allocator.database.tables import idempotency, keys, teams
from services.allocator.errors import InFlight, KeyNotActive
from services.allocator.identity import SERVICE, Identity
from services.kit.keys import PREFIX, digest
from services.kit.session import insert

KEY_ID_BYTES = 8
"""Random bytes of a key's public name: no two of a billion keys share one."""

_LIVE = and_(keys.c.revoked_s.is_(None), or_(keys.c.expires_s.is_(None), keys.c.expires_s > now_s()))
_STATUS = case((_LIVE, "active"), (keys.c.revoked_s.is_(None), "expired"), else_="revoked").label("status")
_COLUMNS = (*(column for column in keys.c if column is not keys.c.digest), _STATUS)


class Keyring:
    """Keys inside one transaction; every change is logged in the name of `actor`."""

    def __init__(self, connection: AsyncConnection, pepper: str, actor: Identity = SERVICE) -> None:
        self._connection = connection
        self._pepper = pepper
        self._changes = Changes(connection, actor)

    async def create_key(self, request: KeyCreate, idempotency_key: str) -> KeySecret:
        """Create a key, once per Idempotency-Key.

        Raises:
            Conflict: the Idempotency-Key was used before with another body.
            InFlight: another request holds it.
            NotFound: there is no such team.
            TeamClosed: the team is closed.
        """
        await self._require_open(request.team)
        key_id, first = await self._claim(idempotency_key, fingerprint(request))
        token = self._token(key_id, idempotency_key)
        if first:
            await self._store(key_id, token, request)
            await self._created(key_id)
        return await self._secret(key_id, token)

    async def rotate_key(self, key_id: str, request: KeyRotate, idempotency_key: str) -> KeySecret:
        """Replace a key by a new one of the same team, scope, label and lifetime; the old one ends after the grace.

        Raises:
            Conflict: the Idempotency-Key was used before with another body or for another key.
            InFlight: another request holds it.
            KeyNotActive: the key has ended, or was rotated before.
            NotFound: there is no such key.
            TeamClosed: its team is closed.
        """
        await self._require_open((await self._row(key_id)).team)
        new_id, first = await self._claim(idempotency_key, _rotation(key_id, request))
        token = self._token(new_id, idempotency_key)
        if first:
            old = await self._active(key_id)
            before = await self._key(key_id)
            lifetime_s = None if old.expires_s is None else old.expires_s - old.created_s
            made = KeyCreate(team=old.team, scope=old.scope, label=old.label, expires_in_s=lifetime_s)
            await self._store(new_id, token, made, replaces=key_id)
            ends = now_s() + request.grace_s
            sooner = case((keys.c.expires_s < ends, keys.c.expires_s), else_=ends)
            await self._connection.execute(update(keys).where(keys.c.key_id == key_id).values(expires_s=sooner))
            await self._changes.record("key.rotated", old.team, f"key:{key_id}", before, await self._key(key_id))
            await self._created(new_id)
        return await self._secret(new_id, token)

    async def revoke(self, key_id: str) -> Key:
        """Revoke a key; again changes nothing.

        Raises:
            NotFound: there is no such key.
        """
        await self._row(key_id, lock=True)
        before = await self._key(key_id)
        live = (keys.c.key_id == key_id) & keys.c.revoked_s.is_(None)
        await self._connection.execute(update(keys).where(live).values(revoked_s=now_s()))
        after = await self._key(key_id)
        if not before.revoked:
            await self._changes.record("key.revoked", after.team, f"key:{key_id}", before, after)
        return after

    async def revoke_all(self, team: str) -> list[tuple[Key, Key]]:
        """Revoke every key of a team that still opens something; return each as it was and as it is, oldest first.

        Nothing is logged: the caller does that, last in its transaction. It holds the lock of the team's row.
        """
        live = select(*_COLUMNS).where(keys.c.team == team, _LIVE).order_by(keys.c.created_s, keys.c.key_id)
        before = [_as_key(row) for row in (await self._connection.execute(live.with_for_update())).all()]
        revoking = update(keys).where(keys.c.team == team, _LIVE).values(revoked_s=now_s())
        await self._connection.execute(revoking)
        return [(key, await self._key(key.key_id)) for key in before]

    async def ensure_key(self, request: KeyCreate, token: str) -> None:
        """Store a key whose token was made outside (the embedded mode's key file), unless it is there."""
        known = select(keys.c.key_id).where(keys.c.digest == digest(token, self._pepper))
        if await self._connection.scalar(known) is None:
            key_id = secrets.token_hex(KEY_ID_BYTES)
            await self._store(key_id, token, request)
            await self._created(key_id)

    async def keys(self, team: str | None = None, after: str | None = None, limit: int = 100) -> KeysAnswer:
        """Return at most `limit` keys of a team, or of all, oldest first, from the one after key `after` on.

        Raises:
            InvalidInput: there is no key `after`.
        """
        query = select(*_COLUMNS).order_by(keys.c.created_s, keys.c.key_id).limit(limit + 1)
        if team is not None:
            query = query.where(keys.c.team == team)
        if after is not None:
            place = (
                await self._connection.execute(select(keys.c.created_s).where(keys.c.key_id == after))
            ).one_or_none()
            if place is None:
                raise InvalidInput(f"after: no key {after!r} to go on from; send the `next` of the last page")
            query = query.where(tuple_(keys.c.created_s, keys.c.key_id) > tuple_(place.created_s, after))
        rows = (await self._connection.execute(query)).all()
        found = [_as_key(row) for row in rows[:limit]]
        return KeysAnswer(keys=found, next=found[-1].key_id if len(rows) > limit else None)

    async def find(self, token_digest: str) -> Row[Any, Any, Any, Any] | None:
        """Return team, scope, id and seconds left (None: without end) of the live key of this digest."""
        left = (keys.c.expires_s - now_s()).label("left_s")
        query = select(keys.c.team, keys.c.scope, keys.c.key_id, left).where(keys.c.digest == token_digest, _LIVE)
        return (await self._connection.execute(query)).one_or_none()

    async def holder(self, key_id: str) -> Row[Any, Any, Any] | None:
        """Return team, scope and id of the live key of this id."""
        query = select(keys.c.team, keys.c.scope, keys.c.key_id).where(keys.c.key_id == key_id, _LIVE)
        return (await self._connection.execute(query)).one_or_none()

    async def _require_open(self, team: str) -> None:
        """Refuse a team that is closed, and keep it from being closed until this transaction ends."""
        query = select(teams.c.team).where(teams.c.team == team).with_for_update(read=True)
        if await self._connection.scalar(query) is None:
            raise NotFound(f"no team {team!r}")
        await closures.require_open(self._connection, team)

    async def _claim(self, idempotency_key: str, body: str) -> tuple[str, bool]:
        """Return the id of the key that an Idempotency-Key makes, and whether it is this request that makes it."""
        once, key_id = digest(f"idempotency {idempotency_key}", self._pepper), secrets.token_hex(KEY_ID_BYTES)
        if self._connection.dialect.name == "postgresql":
            number = int.from_bytes(bytes.fromhex(once)[:8], signed=True)
            if not await self._connection.scalar(select(func.pg_try_advisory_xact_lock(number))):
                raise InFlight("a request with this Idempotency-Key is still running")
        row = {"digest": once, "fingerprint": body, "key_id": key_id, "created_s": now_s()}
        claim = insert(self._connection, idempotency).values(row).on_conflict_do_nothing()
        first = await self._connection.scalar(claim.returning(idempotency.c.digest)) is not None
        stored = (await self._connection.execute(select(idempotency).where(idempotency.c.digest == once))).one()
        if stored.fingerprint != body:
            raise Conflict("this Idempotency-Key was used before with another body")
        return stored.key_id, first

    async def _active(self, key_id: str) -> Row[Any]:
        """Return the row of a key that may be rotated, locked."""
        row = await self._row(key_id, lock=True)
        if row.status != "active":
            raise KeyNotActive(f"key {key_id!r} is {row.status}; create a new key for team {row.team!r} instead")
        successor = await self._connection.scalar(select(keys.c.key_id).where(keys.c.replaces == key_id))
        if successor is not None:
            raise KeyNotActive(f"key {key_id!r} was rotated to {successor!r} already; rotate that one")
        return row

    async def _row(self, key_id: str, *, lock: bool = False) -> Row[Any]:
        query = select(*_COLUMNS).where(keys.c.key_id == key_id)
        row = (await self._connection.execute(query.with_for_update() if lock else query)).one_or_none()
        if row is None:
            raise NotFound(f"no key {key_id!r}")
        return row

    async def _key(self, key_id: str) -> Key:
        return _as_key(await self._row(key_id))

    async def _secret(self, key_id: str, token: str) -> KeySecret:
        return KeySecret(**(await self._key(key_id)).model_dump(), token=token)

    async def _created(self, key_id: str) -> None:
        made = await self._key(key_id)
        await self._changes.record("key.created", made.team, f"key:{key_id}", None, made)

    async def _store(self, key_id: str, token: str, request: KeyCreate, replaces: str | None = None) -> None:
        row = {
            "key_id": key_id,
            "team": request.team,
            "scope": request.scope,
            "label": request.label,
            "digest": digest(token, self._pepper),
            "created_s": now_s(),
            "expires_s": None if request.expires_in_s is None else now_s() + request.expires_in_s,
            "replaces": replaces,
        }
        await self._connection.execute(insert(self._connection, keys).values(row))

    def _token(self, key_id: str, idempotency_key: str) -> str:
        secret = hmac.new(self._pepper.encode(), f"token {key_id} {idempotency_key}".encode(), hashlib.sha256).digest()
        return PREFIX + base64.urlsafe_b64encode(secret).decode().rstrip("=")


def _rotation(key_id: str, request: KeyRotate) -> str:
    """Return the fingerprint of a rotation, which no creation has."""
    return hashlib.sha256(f"rotate {key_id} {fingerprint(request)}".encode()).hexdigest()


def _as_key(row: Row[Any]) -> Key:
    return Key(
        key_id=row.key_id,
        team=row.team,
        scope=row.scope,
        label=row.label,
        created_at=row.created_s,
        expires_at=row.expires_s,
        revoked=row.revoked_s is not None,
        status=row.status,
        replaces=row.replaces,
    )
