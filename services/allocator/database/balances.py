"""Sums that stand for entries: what the auditor adds instead of reading them all again, and what archived ones leave.

An entry is summed at one grain, from which every counter and every sum of usage follows: team, run, policy, day, step.
`balances` holds the sums of a team's entries up to its checkpoint, archived ones included; `archived_sums` those of the
entries that were carried into files. Both only ever grow, under the team's row: every writer of entries holds it until
it commits, so that a team's entries become visible in the order of their ids and none appears below a checkpoint later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import CTE, BigInteger, ColumnElement, Select, and_, cast, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import Table
from sqlalchemy.sql import functions

from rollout_budget.ledger.books import Counts
from services.allocator.database.accounts import Accounts
from services.allocator.database.lines import ADDS, POLICY
from services.allocator.database.tables import NO_STEP, archived_sums, balances, checkpoints, entries
from services.kit.session import insert

MOST_FOLDED = 100_000
"""Entries that are folded under one hold of a team's row: a quarter of a second, so that no request gives up on it."""
GRAIN = ("team", "run", "policy", "day", "step")
_KEY: tuple[ColumnElement[Any], ...] = (
    entries.c.team,
    entries.c.run,
    POLICY,
    entries.c.day,
    functions.coalesce(entries.c.step, literal(NO_STEP)),
)


def lines(team: str | None, *, full: bool, floor: int = 0) -> CTE:
    """Return the sums of everything ever booked, some rows per place of the grain; of all teams if `team` is None.

    Args:
        team: whose.
        full: from every entry there is and what the archived ones left; else from what stands for most of them.
        floor: an id that every team's checkpoint has passed, as far as is known: older entries are not looked at.
    """
    stand = archived_sums if full else balances
    recent = () if full else (entries.c.entry_id > floor, since_checkpoint(team))
    return _both(stand, team, *recent)


def until_checkpoints(team: str | None) -> CTE:
    """Return what `balances` must be: what the archived entries left, and the entries up to the checkpoints."""
    return _both(archived_sums, team, ~since_checkpoint(team))


def _both(stand: Table, team: str | None, *which: ColumnElement[bool]) -> CTE:
    kept = select(*(stand.c[name] for name in (*GRAIN, *Counts._fields)))
    if team is None:
        return union_all(kept, booked(*which)).cte("lines")
    return union_all(kept.where(stand.c.team == team), booked(entries.c.team == team, *which)).cte("lines")


def booked(*where: ColumnElement[bool]) -> Select[tuple[Any, ...]]:
    """Select the sums of some entries."""
    sums = [cast(func.sum(ADDS[name]), BigInteger).label(name) for name in Counts._fields]
    keys = [column.label(name) for name, column in zip(GRAIN, _KEY, strict=True)]
    return select(*keys, *sums).where(and_(literal(1) == 1, *where)).group_by(*_KEY)


def since_checkpoint(team: str | None) -> ColumnElement[bool]:
    """Whether an entry (of this team) is not in `balances` yet."""
    reached = select(checkpoints.c.entry_id).where(checkpoints.c.team == (entries.c.team if team is None else team))
    return entries.c.entry_id > functions.coalesce(reached.scalar_subquery(), literal(0))


async def active(connection: AsyncConnection, floor: int) -> list[str]:
    """Return the teams with entries of ids above `floor`."""
    query = select(entries.c.team).where(entries.c.entry_id > floor).distinct().order_by(entries.c.team)
    return list((await connection.execute(query)).scalars())


async def newest(connection: AsyncConnection) -> int:
    """Return the newest entry's id."""
    return int(await connection.scalar(select(func.max(entries.c.entry_id))) or 0)


async def fold(connection: AsyncConnection, team: str) -> bool:
    """Move a team's checkpoint on by at most `MOST_FOLDED` entries; say whether none is left. Takes the team's row.

    Raises:
        NotFound: no such team.
    """
    await Accounts(connection).gate(team)
    of_team = entries.c.team == team
    reached = await connection.scalar(select(checkpoints.c.entry_id).where(checkpoints.c.team == team)) or 0
    left = select(entries.c.entry_id).where(of_team, entries.c.entry_id > reached).order_by(entries.c.entry_id)
    some = left.limit(MOST_FOLDED).subquery()
    row = (
        await connection.execute(
            select(func.max(some.c.entry_id).label("last"), func.count(some.c.entry_id).label("rows"))
        )
    ).one()
    last = row.last or 0
    if last > reached:
        await add(connection, balances, booked(of_team, entries.c.entry_id > reached, entries.c.entry_id <= last))
        moved = insert(connection, checkpoints).values(team=team, entry_id=last)
        await connection.execute(moved.on_conflict_do_update(index_elements=["team"], set_={"entry_id": last}))
    return bool(row.rows < MOST_FOLDED)


async def add(connection: AsyncConnection, table: Table, sums: Select[tuple[Any, ...]]) -> None:
    """Add sums to a table of them."""
    names: Sequence[str] = [*GRAIN, *Counts._fields]
    statement = insert(connection, table).from_select(names, sums)
    added = {name: table.c[name] + statement.excluded[name] for name in Counts._fields}
    await connection.execute(statement.on_conflict_do_update(index_elements=list(GRAIN), set_=added))
