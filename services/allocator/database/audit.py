"""The auditor: recomputes every counter from its entries while the service runs (G2).

Counters and entries are compared in one statement, hence in one snapshot: a request that commits meanwhile is seen with
both or with neither. An account that differs grants nothing more until it agrees again.
"""

from __future__ import annotations

from itertools import groupby

from sqlalchemy import BigInteger, Select, String, and_, case, cast, func, literal, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement

from rollout_budget.ledger.base import Account, Discrepancy
from rollout_budget.ledger.books import EFFECTS, TOTAL
from services.allocator.database.accounts import DAY, MONTH, STEP, Accounts
from services.allocator.database.tables import accounts, entries

COUNTERS = ("reserved", "committed", "overage")
_TEAM, _RUN = literal(""), entries.c.run
_SCOPES: tuple[tuple[ColumnElement[str], ColumnElement[str]], ...] = (
    (_TEAM, literal(TOTAL)),
    (_TEAM, literal(DAY) + entries.c.day),
    (_TEAM, literal(MONTH) + func.substr(entries.c.day, 1, 7)),
    (_RUN, literal(TOTAL)),
    (_RUN, literal(STEP) + cast(entries.c.step, String)),
)
"""Run and span of each account that an entry counts on."""


async def audit(connection: AsyncConnection) -> list[Discrepancy]:
    """Return every counter that differs from its entries; suspend those accounts, resume those that agree again."""
    rows = (await connection.execute(_differences())).all()
    found: list[Discrepancy] = []
    for team, of_team in groupby(rows, key=lambda row: row.team):
        await Accounts(connection).gate(team)
        for row in of_team:
            pairs = {name: (getattr(row, name), getattr(row, f"booked_{name}")) for name in COUNTERS}
            wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
            where = and_(accounts.c.team == team, accounts.c.run == row.run, accounts.c.span == row.span)
            await connection.execute(update(accounts).where(where).values(suspended=bool(wrong)))
            account = Account(team, row.run)
            found += [
                Discrepancy(account, f"{row.span} {name}", int(counted), int(booked))
                for name, (counted, booked) in wrong.items()
            ]
    return found


def _differences() -> Select[tuple[object, ...]]:
    """Select the accounts whose counters differ from their entries, or that were suspended for it before."""
    both = union_all(_counted(), *(_booked(run, span) for run, span in _SCOPES)).subquery()
    key = (both.c.team, both.c.run, both.c.span)
    sums = {name: func.sum(both.c[name]) for name in (*COUNTERS, *(f"booked_{name}" for name in COUNTERS))}
    differs = [sums[name] != sums[f"booked_{name}"] for name in COUNTERS]
    suspended = func.sum(both.c.suspended)
    return (
        select(*key, *(total.label(name) for name, total in sums.items()))
        .group_by(*key)
        .having(differs[0] | differs[1] | differs[2] | (suspended > 0))
        .order_by(*key)
    )


def _counted() -> Select[tuple[object, ...]]:
    zeros = [literal(0).label(f"booked_{name}") for name in COUNTERS]
    flag = case((accounts.c.suspended, 1), else_=0).label("suspended")
    key = (accounts.c.team, accounts.c.run, accounts.c.span)
    return select(*key, *(accounts.c[name] for name in COUNTERS), *zeros, flag)


def _booked(run: ColumnElement[str], span: ColumnElement[str]) -> Select[tuple[object, ...]]:
    zeros = [literal(0).label(name) for name in COUNTERS]
    sums = [
        cast(func.sum(entries.c.rollouts * case(_signs(name), value=entries.c.kind, else_=0)), BigInteger).label(
            f"booked_{name}"
        )
        for name in COUNTERS
    ]
    key = (entries.c.team, run.label("run"), span.label("span"))
    query = select(*key, *zeros, *sums, literal(0).label("suspended"))
    return query.where(span.is_not(None)).group_by(entries.c.team, run, span)


def _signs(counter: str) -> dict[str, int]:
    return {kind: sign for kind, effects in EFFECTS.items() for name, sign in effects if name == counter}
