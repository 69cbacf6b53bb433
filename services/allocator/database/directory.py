"""Teams and their limits, with their keys (`keyring`): who there is, and what each may use.

Every change is logged in the transaction that makes it (`changes`). Whoever changes a team holds the lock of its row
first, so that what the log says stood before did stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.engine import reading
from rollout_budget.engine.ids import fingerprint
from rollout_budget.errors import Conflict, NotFound
from rollout_budget.wire import (
    BudgetView,
    ChangesAnswer,
    Dimension,
    Team,
    TeamCreate,
    TeamLimits,
    TeamPatch,
    TeamsAnswer,
    TeamSummary,
    UsageAnswer,
    UsageQuery,
)
from services.allocator.database import closures
from services.allocator.database.clock import now_s
from services.allocator.database.keyring import Keyring
from services.allocator.database.ledger import SqlLedger
from services.allocator.database.tables import teams
from services.allocator.errors import ChangedMeanwhile, OwnTeam
from services.allocator.identity import SERVICE, Identity
from services.kit.session import insert

_CLOSURES = closures.closures
_TEAMS = select(teams, _CLOSURES.c.closed_s).select_from(teams.outerjoin(_CLOSURES, teams.c.team == _CLOSURES.c.team))


class Directory(Keyring):
    """Teams, their limits and their keys inside one transaction.

    Args:
        connection: the transaction.
        pepper: secret under which keys are hashed.
        actor: in whose name changes are logged.
        ledger: the ledger in the same transaction, where its clock is not the database's own.
    """

    def __init__(
        self, connection: AsyncConnection, pepper: str, actor: Identity = SERVICE, ledger: SqlLedger | None = None
    ) -> None:
        super().__init__(connection, pepper, actor)
        self._actor = actor
        self._ledger = ledger or SqlLedger(connection)

    async def add_team(self, request: TeamCreate) -> Team:
        """Create a team with its limits; the same request again changes nothing and answers the team as it stands.

        Raises:
            Conflict: the id was used before with another body.
        """
        row = {"team": request.team, "name": request.name, "fingerprint": fingerprint(request), "created_s": now_s()}
        statement = insert(self._connection, teams).values(row).on_conflict_do_nothing().returning(teams.c.team)
        created = await self._connection.scalar(statement) is not None
        if created:
            await self._ledger.set_team_limits(request.team, request.limits)
        elif (await self._row_of(request.team)).fingerprint != row["fingerprint"]:
            raise Conflict(f"team {request.team!r} was created before with another body")
        team = await self.team(request.team)
        if created:
            await self._changes.record("team.created", request.team, f"team:{request.team}", None, team)
        return team

    async def team(self, team: str) -> Team:
        """Return a team with its limits.

        Raises:
            NotFound: there is no such team; so raise all methods that take a team.
        """
        summary = _as_summary(await self._row_of(team))
        return Team(**summary.model_dump(), limits=(await self._ledger.budget(team)).limits)

    async def teams(self, after: str = "", limit: int = 100) -> TeamsAnswer:
        """Return at most `limit` teams in the order of their ids, from the one after `after` on."""
        query = _TEAMS.where(teams.c.team > after).order_by(teams.c.team).limit(limit + 1)
        rows = (await self._connection.execute(query)).all()
        found = [_as_summary(row) for row in rows[:limit]]
        return TeamsAnswer(teams=found, next=found[-1].team if len(rows) > limit else None)

    async def rename_team(self, team: str, patch: TeamPatch) -> Team:
        """Give a team another name; its id never changes."""
        before = _as_summary(await self._row_of(team, lock=True))
        await self._connection.execute(update(teams).where(teams.c.team == team).values(name=patch.name))
        renamed = _as_summary(await self._row_of(team))
        await self._changes.record("team.renamed", team, f"team:{team}", before, renamed)
        return await self.team(team)

    async def close_team(self, team: str) -> Team:
        """End all keys of a team and grant it nothing more; what it holds can be settled. Again changes nothing.

        Its limits are kept for when it is reopened; until then it grants nothing by one of 0 rollouts, which binds
        requests that came before their keys ended.

        Raises:
            OwnTeam: it is that of the actor, who would be locked out.
        """
        if team == self._actor.team:
            raise OwnTeam(f"this key is of team {team!r} and would end with it; use another admin's")
        await self._row_of(team, lock=True)
        before = await self.team(team)
        if before.closed_at is not None:
            return before
        revoked = await self.revoke_all(team)
        none = before.limits.model_copy(update={"rollouts": 0, "mode": "enforce"})
        await self._ledger.set_team_limits(team, none)
        await closures.close(self._connection, team, before.limits)
        after = await self.team(team)
        for key, ended in revoked:
            await self._changes.record("key.revoked", team, f"key:{key.key_id}", key, ended)
        await self._changes.record("team.closed", team, f"team:{team}", before, after)
        return after

    async def reopen_team(self, team: str) -> Team:
        """Give a closed team its limits again; its keys have ended for good. Again changes nothing."""
        await self._row_of(team, lock=True)
        before = await self.team(team)
        closed = await closures.find(self._connection, team)
        if closed is None:
            return before
        await self._ledger.set_team_limits(team, TeamLimits.model_validate_json(closed.limits_before))
        await closures.reopen(self._connection, team)
        after = await self.team(team)
        await self._changes.record("team.reopened", team, f"team:{team}", before, after)
        return after

    async def budget(self, team: str) -> BudgetView:
        """Return a team's limits, what it has used, and what is left."""
        await self._row_of(team)
        return await self._ledger.budget(team)

    async def usage(self, team: str | None, by: Sequence[Dimension], query: UsageQuery) -> UsageAnswer:
        """Return a page of the usage of a team, or of all, grouped by these dimensions."""
        if team is not None:
            await self._row_of(team)
        return await reading.usage(self._ledger, team, by, query)

    async def set_budget(self, team: str, limits: TeamLimits, expected: str | None = None) -> BudgetView:
        """Set a team's limits; lower than what is used already is legal and stops new grants only.

        Args:
            team: whose.
            limits: all of them; one that is not named is lifted.
            expected: fingerprint of the limits that these are made from; None sets them whatever stood.

        Raises:
            ChangedMeanwhile: other limits stand than expected; nothing was changed.
            TeamClosed: it has its former limits again once it is reopened.
        """
        await self._row_of(team, lock=True)
        await closures.require_open(self._connection, team)
        before = (await self._ledger.budget(team)).limits
        if expected is not None and expected != fingerprint(before):
            raise ChangedMeanwhile(f"the limits of team {team!r} were changed meanwhile; read them again")
        await self._ledger.set_team_limits(team, limits)
        view = await self._ledger.budget(team)
        await self._changes.record("budget.set", team, f"budget:{team}", before, view.limits)
        return view

    async def changes(self, team: str | None, subject: str | None, after: int, limit: int) -> ChangesAnswer:
        """Return logged changes in the order of their numbers (see `Changes.page`)."""
        return await self._changes.page(team, subject, after, limit)

    async def _row_of(self, team: str, *, lock: bool = False) -> Row[Any]:
        if lock:  # first: what stands is read when no other changes it
            await self._connection.execute(select(teams.c.team).where(teams.c.team == team).with_for_update())
        row = (await self._connection.execute(_TEAMS.where(teams.c.team == team))).one_or_none()
        if row is None:
            raise NotFound(f"no team {team!r}")
        return row


def _as_summary(row: Row[Any]) -> TeamSummary:
    return TeamSummary(team=row.team, name=row.name, created_at=row.created_s, closed_at=row.closed_s)
