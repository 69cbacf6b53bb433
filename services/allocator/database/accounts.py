"""The account rows: the conditional statement that grants, and what is left.

The rule, once per scope, team first: `reserved` grows only where `committed + reserved + overage + n <= limit`, in the
UPDATE itself (G1). Nothing is read first. All writers of one team pass the team's row (`gate`) before any other row, so
the order of locks is fixed and no two of them can deadlock (G12).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import ColumnElement, and_, bindparam, case, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.errors import NotFound
from rollout_budget.ledger.base import Account
from rollout_budget.ledger.books import TOTAL, Counts, Scope
from rollout_budget.wire import RunLimits, TeamLimits
from services.allocator.database.clock import now_s
from services.allocator.database.tables import accounts
from services.kit.session import insert

DAY, MONTH, STEP = "day:", "month:", "step:"
"""Spans of the rows whose limits new days, months and steps copy."""

_IN_USE = accounts.c.committed + accounts.c.reserved + accounts.c.overage
_THIS = and_(
    accounts.c.team == bindparam("in_team"),
    accounts.c.run == bindparam("in_run"),
    accounts.c.span == bindparam("in_span"),
)
TAKE = (
    update(accounts)
    .where(
        _THIS,
        accounts.c.suspended.is_(False),
        or_(accounts.c.limit_rollouts.is_(None), _IN_USE + bindparam("n") <= accounts.c.limit_rollouts),
    )
    .values(reserved=accounts.c.reserved + bindparam("n"))
)
"""The one statement that grants."""
MOVE = (
    update(accounts)
    .where(_THIS)
    .values(
        reserved=accounts.c.reserved + bindparam("add_reserved"),
        committed=accounts.c.committed + bindparam("add_committed"),
        overage=accounts.c.overage + bindparam("add_overage"),
    )
)
"""The statement that commits, gives back and books overage: no limit applies to what has happened already."""


def team_scopes(team: str, day: str) -> list[Scope]:
    """Return the scopes of a team that a rollout of this day is charged to."""
    own = Account(team, "")
    return [Scope(own, TOTAL), Scope(own, DAY + day), Scope(own, MONTH + day[:7])]


def scopes(account: Account, step: int | None, day: str) -> list[Scope]:
    """Return all scopes that a rollout is charged to, in the order in which they are taken: the team's first."""
    charged = [*team_scopes(account.team, day), Scope(account, TOTAL)]
    return charged if step is None else [*charged, Scope(account, STEP + str(step))]


class Accounts:
    """The account rows, inside one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def gate(self, team: str) -> float:
        """Lock the team's row and return the database's clock, read once the lock is held.

        Raises:
            NotFound: no such team.
        """
        locked = select(accounts.c.team).where(_at(Scope(Account(team, ""), TOTAL))).with_for_update().subquery()
        moment = await self._connection.scalar(select(now_s()).select_from(locked))
        if moment is None:
            raise NotFound(f"no account of team {team!r}")
        return float(moment)

    async def take(self, charged: Sequence[Scope], n: int) -> bool:
        """Reserve `n` in every scope or in none; say which."""
        for index, scope in enumerate(charged):
            result = await self._connection.execute(TAKE, {**_bound(scope), "n": n})
            if result.rowcount == 0:
                await self.move(dict.fromkeys(charged[:index], Counts(reserved=-n)))
                return False
        return True

    async def move(self, changes: Mapping[Scope, Counts]) -> None:
        """Apply changes that no limit can refuse; scopes without a row of their own are not counted."""
        rows = [
            {
                **_bound(scope),
                "add_reserved": change.reserved,
                "add_committed": change.committed,
                "add_overage": change.overage,
            }
            for scope, change in changes.items()
            if change.reserved or change.committed or change.overage
        ]
        if rows:
            await self._connection.execute(MOVE, rows)

    async def open_team(self, team: str, limits: TeamLimits | None = None) -> None:
        """Create a team's rows if they are new; set their limits, unless None."""
        own, most = Account(team, ""), limits or TeamLimits()
        rows = {TOTAL: most.rollouts, DAY: most.rollouts_per_day, MONTH: most.rollouts_per_month}
        await self._open(own, rows)
        if limits is not None:
            await self.gate(team)
            await self._limit(own, rows)

    async def open_run(self, account: Account, limits: RunLimits) -> None:
        """Create a run's rows if they are new, and set their limits."""
        rows = {TOTAL: limits.rollouts, STEP: limits.rollouts_per_step}
        await self.gate(account.team)
        await self._open(account, rows)
        await self._limit(account, rows)

    async def open_spans(self, wanted: Iterable[Scope]) -> None:
        """Create the rows of days, months and steps that are new, with the limits of their patterns."""
        for scope in wanted:
            key = (accounts.c.team, accounts.c.run, literal(scope.window), accounts.c.limit_rollouts)
            rows = select(*key).where(_at(_pattern(scope)))
            names = ["team", "run", "span", "limit_rollouts"]
            statement = insert(self._connection, accounts).from_select(names, rows).on_conflict_do_nothing()
            await self._connection.execute(statement)

    async def left(self, wanted: Sequence[Scope]) -> list[int]:
        """Return what is left in each of these scopes that has a limit, 0 where grants are suspended.

        A span that has no row yet has the whole limit of its pattern left.

        Raises:
            NotFound: an account was never opened.
        """
        keys = [_key(one) for scope in wanted for one in {scope, _pattern(scope)}]
        remaining = case((accounts.c.suspended, 0), else_=accounts.c.limit_rollouts - _IN_USE)
        key = (accounts.c.team, accounts.c.run, accounts.c.span)
        query = select(*key, remaining.label("left")).where(tuple_(*key).in_(keys))
        rows = {(row.team, row.run, row.span): row.left for row in await self._connection.execute(query)}
        missing = [scope.account for scope in wanted if _key(_pattern(scope)) not in rows]
        if missing:
            raise NotFound(f"no account of run {missing[0].run!r}")
        found = [rows.get(_key(scope), rows[_key(_pattern(scope))]) for scope in wanted]
        return [some for some in found if some is not None]

    async def _open(self, account: Account, limits: Mapping[str, int | None]) -> None:
        rows = [
            {"team": account.team, "run": account.run, "span": span, "limit_rollouts": most}
            for span, most in limits.items()
        ]
        await self._connection.execute(insert(self._connection, accounts).on_conflict_do_nothing(), rows)

    async def _limit(self, account: Account, limits: Mapping[str, int | None]) -> None:
        of_account = and_(accounts.c.team == account.team, accounts.c.run == account.run)
        for span, most in limits.items():
            statement = update(accounts).where(of_account, accounts.c.span.startswith(span, autoescape=True))
            await self._connection.execute(statement.values(limit_rollouts=most))


def _pattern(scope: Scope) -> Scope:
    kind, colon, _ = scope.window.partition(":")
    return Scope(scope.account, kind + colon)


def _key(scope: Scope) -> tuple[str, str, str]:
    return (scope.account.team, scope.account.run, scope.window)


def _at(scope: Scope) -> ColumnElement[bool]:
    team, run, span = _key(scope)
    return and_(accounts.c.team == team, accounts.c.run == run, accounts.c.span == span)


def _bound(scope: Scope) -> dict[str, str]:
    return dict(zip(("in_team", "in_run", "in_span"), _key(scope), strict=True))
