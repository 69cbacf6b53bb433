"""The auditor: recomputes every counter and every sum of usage from the entries while the service runs (G2).

Projections and entries are compared in one statement, hence in one snapshot: a request that commits meanwhile is seen
with both or with neither. An account that differs grants nothing more until it agrees again; where a sum of usage
differs, that is its run's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import BigInteger, Row, Select, String, and_, case, cast, func, literal, or_, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import Column, Table
from sqlalchemy.sql import ColumnElement

from rollout_budget.ledger.base import Account, Discrepancy
from rollout_budget.ledger.books import DAY, MONTH, STEP, TOTAL, Counts, usage_name
from services.allocator.database.accounts import COUNTERS, Accounts
from services.allocator.database.lines import ADDS, POLICY
from services.allocator.database.tables import accounts, entries, usage_sums

_TEAM, _RUN = literal(""), entries.c.run
_SCOPES: tuple[tuple[ColumnElement[str], ColumnElement[str]], ...] = (
    (_TEAM, literal(TOTAL)),
    (_TEAM, literal(DAY) + entries.c.day),
    (_TEAM, literal(MONTH) + func.substr(entries.c.day, 1, 7)),
    (_RUN, literal(TOTAL)),
    (_RUN, literal(STEP) + cast(entries.c.step, String)),
)
"""Run and span of each account that an entry counts on."""
_ACCOUNT: tuple[Column[Any], ...] = (accounts.c.team, accounts.c.run, accounts.c.span)
_SUM: tuple[Column[Any], ...] = (usage_sums.c.team, usage_sums.c.run, usage_sums.c.policy, usage_sums.c.day)


async def audit(connection: AsyncConnection) -> list[Discrepancy]:
    """Return every counter that differs from its entries; suspend those accounts, resume those that agree again."""
    booked = [_booked((entries.c.team, run, span), COUNTERS) for run, span in _SCOPES]
    flag = case((accounts.c.suspended, 1), else_=0)
    of_accounts = _differences(accounts, _ACCOUNT, booked, COUNTERS, flag)
    of_sums = _differences(
        usage_sums, _SUM, [_booked((entries.c.team, _RUN, POLICY, entries.c.day), Counts._fields)], Counts._fields
    )
    wrong: dict[tuple[str, str, str], list[Discrepancy]] = {}
    for row in await connection.execute(of_accounts):
        wrong.setdefault((row.team, row.run, row.span), []).extend(_found(row, row.span, COUNTERS))
    for row in await connection.execute(of_sums):
        where = usage_name(row.policy, row.day)
        wrong.setdefault((row.team, row.run, TOTAL), []).extend(_found(row, where, Counts._fields))
    for team, keys in groupby(sorted(wrong), key=lambda key: key[0]):
        await Accounts(connection).gate(team)
        for _, run, span in keys:
            here = and_(accounts.c.team == team, accounts.c.run == run, accounts.c.span == span)
            await connection.execute(update(accounts).where(here).values(suspended=bool(wrong[team, run, span])))
    return [one for key in sorted(wrong) for one in wrong[key]]


def _found(row: Row[Any], where: str, names: Sequence[str]) -> list[Discrepancy]:
    pairs = {name: (int(getattr(row, name)), int(getattr(row, f"booked_{name}"))) for name in names}
    account = Account(row.team, row.run)
    return [
        Discrepancy(account, f"{where} {name}", counted, booked)
        for name, (counted, booked) in pairs.items()
        if counted != booked
    ]


def _differences(
    table: Table,
    key: Sequence[Column[Any]],
    booked: Sequence[Select[tuple[Any, ...]]],
    names: Sequence[str],
    suspended: ColumnElement[int] | None = None,
) -> Select[tuple[Any, ...]]:
    """Select the rows whose counters differ from their entries, or that were suspended for it before."""
    zeros = [literal(0).label(f"booked_{name}") for name in names]
    flag = (literal(0) if suspended is None else suspended).label("suspended")
    counted = select(*key, *(table.c[name] for name in names), *zeros, flag)
    both = union_all(counted, *booked).subquery()
    keys = [both.c[column.name] for column in key]
    sums = {name: func.sum(both.c[name]) for name in (*names, *(f"booked_{name}" for name in names))}
    differs = [sums[name] != sums[f"booked_{name}"] for name in names]
    query = select(*keys, *(total.label(name) for name, total in sums.items())).group_by(*keys)
    return query.having(or_(*differs, func.sum(both.c.suspended) > 0)).order_by(*keys)


def _booked(key: Sequence[ColumnElement[str]], names: Iterable[str]) -> Select[tuple[Any, ...]]:
    zeros = [literal(0).label(name) for name in names]
    sums = [cast(func.sum(ADDS[name]), BigInteger).label(f"booked_{name}") for name in names]
    labelled = [part.label(f"key_{place}") for place, part in enumerate(key)]
    columns: list[ColumnElement[Any]] = [*labelled, *zeros, *sums, literal(0)]
    return select(*columns).where(key[-1].is_not(None)).group_by(*key)
