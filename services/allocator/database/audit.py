"""The auditor: recomputes every counter and every sum of usage from the entries while the service runs (G2).

Projections and entries are compared in one statement, hence in one snapshot: a request that commits meanwhile is seen
with both or with neither. An account that differs grants nothing more until it agrees again; where a sum of usage
differs, that is its run's.

Reading all entries takes longer the more there are, so that is done once a day; each minute the auditor reads the
entries since a team's checkpoint and adds them to the balances that stand for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Row,
    Select,
    String,
    and_,
    case,
    cast,
    func,
    literal,
    or_,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import Column
from sqlalchemy.sql import ColumnElement

from rollout_budget.ledger.base import Account, Discrepancy
from rollout_budget.ledger.books import DAY, MONTH, STEP, TOTAL, Counts, usage_name
from services.allocator.database.accounts import COUNTERS, Accounts
from services.allocator.database.balances import GRAIN, lines, until_checkpoints
from services.allocator.database.tables import NO_STEP, accounts, balances, usage_sums

_ACCOUNT: tuple[Column[Any], ...] = (accounts.c.team, accounts.c.run, accounts.c.span)
_SUM: tuple[Column[Any], ...] = (usage_sums.c.team, usage_sums.c.run, usage_sums.c.policy, usage_sums.c.day)
_BALANCE: tuple[Column[Any], ...] = (*(balances.c[name] for name in GRAIN),)
FULL_TIMEOUT_MS = 600_000
"""Longest that PostgreSQL may read all entries: no request waits for it."""
Wrong = dict[tuple[str, str, str], list[Discrepancy]]
"""By team, run and span of the account to suspend; an empty list where one agrees again."""


async def audit(
    connection: AsyncConnection, team: str | None = None, *, full: bool = True, floor: int = 0
) -> list[Discrepancy]:
    """Return every counter that differs from its entries; suspend those accounts, resume those that agree again.

    Args:
        connection: the transaction.
        team: whose accounts; all if None.
        full: read every entry; else only those that no balance stands for yet.
        floor: see `balances.lines`.
    """
    wrong = await differences(connection, team, full=full, floor=floor)
    for name, keys in groupby(sorted(wrong), key=lambda key: key[0]):
        await Accounts(connection).gate(name)
        for _, run, span in keys:
            here = and_(accounts.c.team == name, accounts.c.run == run, accounts.c.span == span)
            await connection.execute(update(accounts).where(here).values(suspended=bool(wrong[name, run, span])))
    return [one for key in sorted(wrong) for one in wrong[key]]


async def differences(connection: AsyncConnection, team: str | None, *, full: bool, floor: int = 0) -> Wrong:
    """Return what differs, and what was suspended and does not, without changing anything; see `audit`."""
    if full and connection.dialect.name == "postgresql":
        await connection.execute(text(f"SET LOCAL statement_timeout = {FULL_TIMEOUT_MS}"))
    booked = lines(team, full=full, floor=floor)
    flag = case((accounts.c.suspended, 1), else_=0)
    of_scopes = [_booked(booked, (booked.c.team, run, span), COUNTERS) for run, span in _scopes(booked)]
    of_accounts = _differences(_ACCOUNT, team, of_scopes, COUNTERS, flag)
    key = (booked.c.team, booked.c.run, booked.c.policy, booked.c.day)
    of_sums = _differences(_SUM, team, [_booked(booked, key, Counts._fields)], Counts._fields)
    wrong: Wrong = {}
    for row in await connection.execute(of_accounts):
        wrong.setdefault((row.team, row.run, row.span), []).extend(_found(row, row.span, COUNTERS))
    for row in await connection.execute(of_sums):
        where = usage_name(row.policy, row.day)
        wrong.setdefault((row.team, row.run, TOTAL), []).extend(_found(row, where, Counts._fields))
    if full:
        kept = until_checkpoints(team)
        of_balances = _booked(kept, [kept.c[name] for name in GRAIN], Counts._fields)
        for row in await connection.execute(_differences(_BALANCE, team, [of_balances], Counts._fields)):
            where = f"balance of {row.policy!r} on {row.day}, step {row.step},"
            wrong.setdefault((row.team, row.run, TOTAL), []).extend(_found(row, where, Counts._fields))
    return wrong


def _scopes(booked: CTE) -> list[tuple[ColumnElement[str], ColumnElement[Any]]]:
    """Return run and span of each account that a sum counts on."""
    team, run, step = literal(""), booked.c.run, booked.c.step
    return [
        (team, literal(TOTAL)),
        (team, literal(DAY) + booked.c.day),
        (team, literal(MONTH) + func.substr(booked.c.day, 1, 7)),
        (run, literal(TOTAL)),
        (run, case((step != NO_STEP, literal(STEP) + cast(step, String)))),
    ]


def _found(row: Row[Any], where: str, names: Sequence[str]) -> list[Discrepancy]:
    pairs = {name: (int(getattr(row, name)), int(getattr(row, f"booked_{name}"))) for name in names}
    account = Account(row.team, row.run)
    return [
        Discrepancy(account, f"{where} {name}", counted, booked)
        for name, (counted, booked) in pairs.items()
        if counted != booked
    ]


def _differences(
    key: Sequence[Column[Any]],
    team: str | None,
    booked: Sequence[Select[tuple[Any, ...]]],
    names: Sequence[str],
    suspended: ColumnElement[int] | None = None,
) -> Select[tuple[Any, ...]]:
    """Select the rows whose counters differ from their entries, or that were suspended for it before."""
    table = key[0].table
    zeros = [literal(0).label(f"booked_{name}") for name in names]
    flag = (literal(0) if suspended is None else suspended).label("suspended")
    counted = select(*key, *(table.c[name] for name in names), *zeros, flag)
    both = union_all(counted if team is None else counted.where(table.c.team == team), *booked).subquery()
    keys = [both.c[column.name] for column in key]
    sums = {name: func.sum(both.c[name]) for name in (*names, *(f"booked_{name}" for name in names))}
    differs = [sums[name] != sums[f"booked_{name}"] for name in names]
    query = select(*keys, *(total.label(name) for name, total in sums.items())).group_by(*keys)
    return query.having(or_(*differs, func.sum(both.c.suspended) > 0)).order_by(*keys)


def _booked(source: CTE, key: Sequence[ColumnElement[Any]], names: Iterable[str]) -> Select[tuple[Any, ...]]:
    zeros = [literal(0).label(name) for name in names]
    sums = [cast(func.sum(source.c[name]), BigInteger).label(f"booked_{name}") for name in names]
    labelled = [part.label(f"key_{place}") for place, part in enumerate(key)]
    columns: list[ColumnElement[Any]] = [*labelled, *zeros, *sums, literal(0)]
    return select(*columns).where(key[-1].is_not(None)).group_by(*key)
