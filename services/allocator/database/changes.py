"""The log of changes: who changed what about a team, a budget, a run's limits or a key, and when.

A change is written in the transaction that makes it, or not at all, and only where something differs. Triggers refuse
to alter or delete one. On PostgreSQL the writers take turns from the writing to their commit, so that the numbers of
changes are the order in which they become visible: who reads on after the last number misses none. The turn is the
last lock that a transaction takes, so that it cannot be part of a deadlock (G12).
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Row, func, select
from sqlalchemy import insert as plain_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.wire.access import Action, Actor, Change, ChangesAnswer
from services.allocator.database.clock import now_s
from services.allocator.database.tables import changes
from services.allocator.identity import Identity

TURN = 0x726F6C6C6F757462
"""Number of the advisory lock that writers pass; "rolloutb" in ASCII."""


class Changes:
    """The log inside one transaction, written in the name of `actor`."""

    def __init__(self, connection: AsyncConnection, actor: Identity) -> None:
        self._connection = connection
        self._actor = actor

    async def record(self, action: Action, team: str, subject: str, before: BaseModel | None, after: BaseModel) -> None:
        """Write a change, unless nothing differs. Call it last in a transaction.

        Args:
            action: what was done.
            team: whose team, budget, run or key it is; this team may read the change.
            subject: `team:ID`, `budget:TEAM`, `run:ID` or `key:ID`.
            before: what stood before, None where it is new.
            after: what stands now.
        """
        if before == after:
            return
        if self._connection.dialect.name == "postgresql":
            await self._connection.execute(select(func.pg_advisory_xact_lock(TURN)))
        row = {
            "at_s": now_s(),
            "by_key": self._actor.key_id,
            "by_scope": self._actor.scope,
            "by_team": self._actor.team,
            "action": action,
            "team": team,
            "subject": subject,
            "before": None if before is None else before.model_dump_json(),
            "after": after.model_dump_json(),
        }
        await self._connection.execute(plain_insert(changes).values(row))

    async def page(self, team: str | None, subject: str | None, after: int, limit: int) -> ChangesAnswer:
        """Return at most `limit` changes with numbers above `after`; of all teams and subjects where those are None."""
        query = select(changes).where(changes.c.change_id > after).order_by(changes.c.change_id).limit(limit + 1)
        if team is not None:
            query = query.where(changes.c.team == team)
        if subject is not None:
            query = query.where(changes.c.subject == subject)
        rows = (await self._connection.execute(query)).all()
        found = [_as_change(row) for row in rows[:limit]]
        return ChangesAnswer(changes=found, next=found[-1].change_id if len(rows) > limit else None)


def _as_change(row: Row[Any]) -> Change:
    return Change(
        change_id=row.change_id,
        at=row.at_s,
        by=Actor(key_id=row.by_key, scope=row.by_scope, team=row.by_team),
        action=row.action,
        team=row.team,
        subject=row.subject,
        before=None if row.before is None else json.loads(row.before),
        after=json.loads(row.after),
    )
