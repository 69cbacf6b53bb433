"""The account rows: the conditional statement that grants, and what is left.

The rule, in every scope, team and run, at once: a row takes a grant only where what is charged to it and the grant fit
under its limits, in the UPDATE itself (G1). Nothing is read first. All writers of one team pass the team's row (`gate`)
before any other row, so the order of locks is fixed and no two of them can deadlock (G12).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Row,
    and_,
    bindparam,
    case,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.errors import NotFound
from rollout_budget.ledger.base import Account
from rollout_budget.ledger.books import DAY, MONTH, STEP, TOTAL, Counts, Scope, pattern_of
from rollout_budget.ledger.limits import Bound, Terms, run_terms, team_terms
from rollout_budget.ledger.units import ONE, Amounts, Caps, need
from rollout_budget.wire import RunLimits, TeamLimits
from services.allocator.database.clock import now_s
from services.allocator.database.tables import accounts
from services.kit.session import insert

COUNTERS = ("reserved", "committed", "overage", "tokens", "tokens_reserved", "milliseconds", "milliseconds_reserved")
"""The fields of `Counts` that limits look at, which every account row keeps."""
LIMITS = ("limit_rollouts", "limit_tokens", "limit_milliseconds", "warn_at", "shadow")
"""What a row of a new day, month or step copies from its pattern."""

_CHARGED = (
    accounts.c.committed + accounts.c.reserved + accounts.c.overage,
    accounts.c.tokens + accounts.c.tokens_reserved,
    accounts.c.milliseconds + accounts.c.milliseconds_reserved,
)
_CAPS = (accounts.c.limit_rollouts, accounts.c.limit_tokens, accounts.c.limit_milliseconds)
_NEEDS = ("need_rollouts", "need_tokens", "need_milliseconds")
_BOUND = (
    accounts.c.run,
    accounts.c.span,
    *(cap.label(f"cap_{place}") for place, cap in enumerate(_CAPS)),
    *(charged.label(f"charged_{place}") for place, charged in enumerate(_CHARGED)),
    accounts.c.warn_at,
    accounts.c.shadow,
    accounts.c.suspended,
)
_THIS = and_(
    accounts.c.team == bindparam("in_team"),
    accounts.c.run == bindparam("in_run"),
    accounts.c.span == bindparam("in_span"),
)
_SPANS = {TOTAL: "in_total", DAY: "in_day", MONTH: "in_month", STEP: "in_step"}
_THESE = and_(
    accounts.c.team == bindparam("in_team"),
    accounts.c.run.in_((literal(""), bindparam("in_run"))),
    accounts.c.span.in_([bindparam(span) for span in _SPANS.values()]),
)
"""The rows of all scopes of a grant: only teams have days and months, only runs have steps."""
TAKE = (
    update(accounts)
    .where(
        _THESE,
        accounts.c.suspended.is_(False),
        or_(
            and_(bindparam("lenient", type_=Boolean), accounts.c.shadow),
            and_(
                *(
                    or_(cap.is_(None), charged + bindparam(needed) <= cap)
                    for cap, charged, needed in zip(_CAPS, _CHARGED, _NEEDS, strict=True)
                )
            ),
        ),
    )
    .values(
        reserved=accounts.c.reserved + bindparam("add_rollouts"),
        tokens_reserved=accounts.c.tokens_reserved + bindparam("add_tokens"),
        milliseconds_reserved=accounts.c.milliseconds_reserved + bindparam("add_milliseconds"),
    )
    .returning(*_BOUND)
)
"""The one statement that grants. Where it is lenient, limits in shadow mode refuse nothing."""
MOVE = update(accounts).where(_THIS).values({name: accounts.c[name] + bindparam(f"add_{name}") for name in COUNTERS})
"""The statement that commits, gives back and books overage: no limit applies to what has happened already."""

_GATE = (
    select(accounts.c.team)
    .where(accounts.c.team == bindparam("in_team"), accounts.c.run == literal(""), accounts.c.span == literal(TOTAL))
    .with_for_update()
    .subquery()
)
_OWN = accounts.alias("own")
GATE = select(now_s().label("moment"), _OWN.c.tokens_each, _OWN.c.milliseconds_each).select_from(
    _GATE.outerjoin(
        _OWN, and_(_OWN.c.team == _GATE.c.team, _OWN.c.run == bindparam("in_run"), _OWN.c.span == literal(TOTAL))
    )
)
"""The lock that all writers of a team pass, and the clock once it is held."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What is known once the team's row is locked: the database's clock, and what a rollout of `run` holds."""

    moment: float
    run: str
    each: Amounts


class Accounts:
    """The account rows, inside one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def gate(self, team: str, run: str = "") -> Gate:
        """Lock the team's row and return the database's clock, read once the lock is held.

        Raises:
            NotFound: no such team.
        """
        row = (await self._connection.execute(GATE, {"in_team": team, "in_run": run})).one_or_none()
        if row is None:
            raise NotFound(f"no account of team {team!r}")
        return Gate(float(row.moment), run, Amounts(1, row.tokens_each or 0, row.milliseconds_each or 0))

    async def take(self, charged: Sequence[Scope], n: int, each: Amounts, *, lenient: bool) -> list[Bound] | None:
        """Reserve `n` rollouts that hold `each` in every scope, and return how these stand now; or in none: None.

        Limits in shadow mode refuse as the others do, unless it is `lenient`. A day, month or step that has no row yet
        gets one on the way.
        """
        held = each.times(n)
        values = {
            "lenient": lenient,
            **dict(zip(_NEEDS, need(each, n), strict=True)),
            **{f"add_{name}": amount for name, amount in held._asdict().items()},
        }
        taken = await self._take(charged, values)
        rest = [scope for scope in charged if scope not in taken]
        if rest and all(scope.window != TOTAL for scope in rest):  # the first grant there, or a limit is reached
            await self.open_spans(rest)
            taken |= await self._take(rest, values)
        if len(taken) == len(charged):
            return [taken[scope] for scope in charged]
        back = Counts(reserved=-n, tokens_reserved=-held.tokens, milliseconds_reserved=-held.milliseconds)
        await self.move(dict.fromkeys(taken, back))
        return None

    async def move(self, changes: Mapping[Scope, Counts]) -> None:
        """Apply changes that no limit can refuse; scopes without a row of their own are not counted."""
        rows = [
            {**_bound(scope), **{f"add_{name}": getattr(change, name) for name in COUNTERS}}
            for scope, change in changes.items()
            if any(getattr(change, name) for name in COUNTERS)
        ]
        if rows:
            await self._connection.execute(MOVE, rows)

    async def open_team(self, team: str, limits: TeamLimits | None = None) -> None:
        """Create a team's rows if they are new; set their limits, unless None."""
        own, terms = Account(team, ""), team_terms(limits or TeamLimits())
        await self._open(own, terms)
        if limits is not None:
            await self.gate(team)
            await self._limit(own, terms)

    async def open_run(self, account: Account, limits: RunLimits) -> None:
        """Create a run's rows if they are new, and set their limits."""
        terms = run_terms(limits)
        await self.gate(account.team)
        await self._open(account, terms)
        await self._limit(account, terms)

    async def open_spans(self, wanted: Iterable[Scope]) -> None:
        """Create the rows of days, months and steps that are new, with the limits of their patterns."""
        for (team, run), patterns in _by_account(wanted):
            window = case(patterns, value=accounts.c.span)
            rows = select(accounts.c.team, accounts.c.run, window, *(accounts.c[name] for name in LIMITS)).where(
                accounts.c.team == team, accounts.c.run == run, accounts.c.span.in_(list(patterns))
            )
            statement = insert(self._connection, accounts).from_select(["team", "run", "span", *LIMITS], rows)
            await self._connection.execute(statement.on_conflict_do_nothing())

    async def bounds(self, charged: Sequence[Scope]) -> list[Bound]:
        """Return how these scopes stand; one that has no row yet has the limits of its pattern and no use.

        Raises:
            NotFound: an account was never opened.
        """
        runs = {scope.account.run for scope in charged}
        spans = {span for scope in charged for span in (scope.window, pattern_of(scope.window))}
        query = select(*_BOUND).where(
            accounts.c.team == charged[0].account.team, accounts.c.run.in_(runs), accounts.c.span.in_(spans)
        )
        rows = {(row.run, row.span): row for row in await self._connection.execute(query)}
        found = []
        for scope in charged:
            pattern = rows.get((scope.account.run, pattern_of(scope.window)))
            if pattern is None:
                raise NotFound(f"no account of run {scope.account.run!r}")
            found.append(_as_bound(scope, rows.get((scope.account.run, scope.window), pattern)))
        return found

    async def each(self, account: Account) -> Amounts:
        """Return what a rollout of this run holds; nothing of tokens and time where the account was never opened."""
        query = select(accounts.c.tokens_each, accounts.c.milliseconds_each).where(_at(Scope(account, TOTAL)))
        row = (await self._connection.execute(query)).one_or_none()
        return ONE if row is None else Amounts(1, row.tokens_each, row.milliseconds_each)

    async def _take(self, charged: Sequence[Scope], values: Mapping[str, Any]) -> dict[Scope, Bound]:
        """Reserve in each of these scopes that has a row and room; return those."""
        rows = (await self._connection.execute(TAKE, {**_these(charged), **values})).all()
        keys = {(scope.account.run, scope.window): scope for scope in charged}
        return {scope: _as_bound(scope, row) for row in rows if (scope := keys[row.run, row.span])}

    async def _open(self, account: Account, terms: Terms) -> None:
        rows = [
            {"team": account.team, "run": account.run, "span": span, **_limits(terms, caps)}
            for span, caps in terms.caps.items()
        ]
        await self._connection.execute(insert(self._connection, accounts).on_conflict_do_nothing(), rows)

    async def _limit(self, account: Account, terms: Terms) -> None:
        of_account = and_(accounts.c.team == account.team, accounts.c.run == account.run)
        for span, caps in terms.caps.items():
            statement = update(accounts).where(of_account, accounts.c.span.startswith(span, autoescape=True))
            await self._connection.execute(statement.values(**_limits(terms, caps)))


def _limits(terms: Terms, caps: Caps) -> dict[str, Any]:
    return {
        **dict(zip(LIMITS, (*caps, terms.warn_at, terms.shadow), strict=True)),
        "tokens_each": terms.each.tokens,
        "milliseconds_each": terms.each.milliseconds,
    }


def _as_bound(scope: Scope, row: Row[Any]) -> Bound:
    """Return a row of `_BOUND` as the bound of a scope. A pattern's row is never charged."""
    return Bound(
        scope,
        Caps(row.cap_0, row.cap_1, row.cap_2),
        Amounts(row.charged_0, row.charged_1, row.charged_2),
        row.shadow,
        row.warn_at,
        row.suspended,
    )


def _by_account(wanted: Iterable[Scope]) -> list[tuple[tuple[str, str], dict[str, str]]]:
    """Return windows by pattern for each account, as often as it takes to have one window of a pattern at a time."""
    found: dict[tuple[str, str, int], dict[str, str]] = {}
    for scope in wanted:
        team, run, pattern = scope.account.team, scope.account.run, pattern_of(scope.window)
        if pattern != TOTAL:
            turn = next(turn for turn in itertools.count() if pattern not in found.get((team, run, turn), {}))
            found.setdefault((team, run, turn), {})[pattern] = scope.window
    return [((team, run), patterns) for (team, run, _), patterns in found.items()]


def _these(charged: Sequence[Scope]) -> dict[str, str]:
    """Return the parameters that name these scopes; no row has an empty span."""
    spans = {pattern_of(scope.window): scope.window for scope in charged}
    return {
        "in_team": charged[-1].account.team,
        "in_run": charged[-1].account.run,
        **{parameter: spans.get(pattern, "") for pattern, parameter in _SPANS.items()},
    }


def _at(scope: Scope) -> ColumnElement[bool]:
    return and_(
        accounts.c.team == scope.account.team, accounts.c.run == scope.account.run, accounts.c.span == scope.window
    )


def _bound(scope: Scope) -> dict[str, str]:
    return {"in_team": scope.account.team, "in_run": scope.account.run, "in_span": scope.window}
