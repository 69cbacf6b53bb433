"""Where runs stand, for gauges: what the ledger has booked, limits of runs and what they learned, read in one go (G18).

Owns statements that only read. The most recent runs come under their own names, all others of a team as one line,
so the sum over all lines is always the ledger's and their number is bounded. Who shows them, and how, is `metrics`'.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import BigInteger, ColumnElement, Double, Row, and_, case, cast, func, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.engine.records import RunRecord
from rollout_budget.ledger.books import DAY, MONTH, TOTAL, Counts
from rollout_budget.ledger.limits import NAMES
from rollout_budget.ledger.units import seconds
from rollout_budget.pacing import Pacing
from rollout_budget.reliability import Reliability
from rollout_budget.wire import LimitName, RunSpec
from services.allocator.database.tables import accounts, outbox, runs, usage_sums

OTHER: Final = "other"
"""Name of what has no line of its own."""
Place = tuple[str, str]
"""Team and run."""
_PACING = TypeAdapter(Pacing)


@dataclass(frozen=True, slots=True)
class Line:
    """What a run has used for one policy; of several runs where `run` is `OTHER`, then of several policies too."""

    team: str
    run: str
    policy: str
    counts: Counts


@dataclass(frozen=True, slots=True)
class RunLimit:
    """A limit of a run over its whole life and what is charged to it, in the unit of its name."""

    place: Place
    name: LimitName
    limit: float
    used: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Lines of usage, the runs that have lines of their own, their limits, and evidence that waits (rows)."""

    lines: list[Line]
    records: dict[Place, RunRecord]
    limits: list[RunLimit]
    evidence_waiting: int


async def read(connection: AsyncConnection, most: int) -> Standing:
    """Read it; `most` lines, >= 1, are of one run and one policy each: unfinished runs first, then the latest used."""
    lines = await _lines(connection, most)
    shown = {(line.team, line.run) for line in lines if line.run != OTHER}
    waiting = int(await connection.scalar(select(func.count()).select_from(outbox)) or 0)
    if not shown:
        return Standing(lines, {}, [], waiting)
    found = await connection.execute(select(runs).where(tuple_(runs.c.team, runs.c.run).in_(shown)))
    records = {(row.team, row.run): as_run(row) for row in found}
    return Standing(lines, records, await _limits(connection, shown), waiting)


async def nearest(connection: AsyncConnection, day: str, most: int) -> list[str]:
    """Return `most` teams that have a limit, nearest to one of theirs first; `day` is today's date, UTC."""
    limited, charged = accounts.alias("limited"), accounts.alias("charged")
    window = case((limited.c.span == DAY, DAY + day), (limited.c.span == MONTH, MONTH + day[:7]), else_=TOTAL)
    of = and_(charged.c.team == limited.c.team, charged.c.run == "", charged.c.span == window)
    rollouts = charged.c.reserved + charged.c.committed + charged.c.overage
    shares = [
        _share(rollouts, limited.c.limit_rollouts),
        _share(charged.c.tokens + charged.c.tokens_reserved, limited.c.limit_tokens),
        _share(charged.c.milliseconds + charged.c.milliseconds_reserved, limited.c.limit_milliseconds),
    ]
    largest = shares[0]
    for share in shares[1:]:
        largest = case((share > largest, share), else_=largest)
    some = or_(*(limited.c[name].is_not(None) for name in ("limit_rollouts", "limit_tokens", "limit_milliseconds")))
    query = (
        select(limited.c.team)
        .select_from(limited.outerjoin(charged, of))
        .where(limited.c.run == "", limited.c.span.in_((TOTAL, DAY, MONTH)), some)
        .group_by(limited.c.team)
        .order_by(func.max(largest).desc(), limited.c.team)
        .limit(most)
    )
    return [str(team) for team in await connection.scalars(query)]


def _share(used: ColumnElement[int], limit: ColumnElement[int | None]) -> ColumnElement[float]:
    """Return the share of a limit that is used or held: 1 of a limit of 0, 0 where there is none."""
    return case((limit == 0, 1.0), else_=func.coalesce(cast(used, Double) / limit, 0.0))


def as_run(row: Row[Any]) -> RunRecord:
    """Return a run as a row of `runs` has it. Nothing is remembered of it: that is for the way of requests (`store`)."""
    pacing = None if row.pacing is None else _PACING.validate_json(row.pacing)
    reliability = Reliability.from_dict(json.loads(row.reliability))
    spec = RunSpec.model_validate_json(row.spec)
    return RunRecord(row.team, spec, reliability, row.finished, row.fingerprint, pacing)


async def _lines(connection: AsyncConnection, most: int) -> list[Line]:
    totals = [cast(func.sum(usage_sums.c[name]), BigInteger).label(name) for name in Counts._fields]
    key = (usage_sums.c.team, usage_sums.c.run, usage_sums.c.policy)
    used = select(*key, func.max(usage_sums.c.day).label("last"), *totals).group_by(*key).subquery()
    order = (runs.c.finished, used.c.last.desc(), used.c.team, used.c.run.desc(), used.c.policy)
    ranked = (
        select(used, func.row_number().over(order_by=order).label("place"))
        .join(runs, and_(runs.c.team == used.c.team, runs.c.run == used.c.run), isouter=True)
        .subquery()
    )
    own = ranked.c.place <= most
    named = select(
        ranked.c.team,
        case((own, ranked.c.run), else_=literal(OTHER)).label("run"),
        case((own, ranked.c.policy), else_=literal(OTHER)).label("policy"),
        *(ranked.c[name] for name in Counts._fields),
    ).subquery()
    sums = [cast(func.sum(named.c[name]), BigInteger).label(name) for name in Counts._fields]
    place = (named.c.team, named.c.run, named.c.policy)
    rows = (await connection.execute(select(*place, *sums).group_by(*place))).all()
    return [
        Line(row.team, row.run, row.policy, Counts(*(getattr(row, name) for name in Counts._fields))) for row in rows
    ]


async def _limits(connection: AsyncConnection, shown: Collection[Place]) -> list[RunLimit]:
    caps = (accounts.c.limit_rollouts, accounts.c.limit_tokens, accounts.c.limit_milliseconds)
    query = select(accounts).where(
        tuple_(accounts.c.team, accounts.c.run).in_(shown),
        accounts.c.span == TOTAL,
        or_(*(cap.is_not(None) for cap in caps)),
    )
    found: list[RunLimit] = []
    for row in await connection.execute(query):
        charged = (
            row.committed + row.reserved + row.overage,
            row.tokens + row.tokens_reserved,
            row.milliseconds + row.milliseconds_reserved,
        )
        rollouts, tokens, time = NAMES[TOTAL]
        place = (row.team, row.run)
        if row.limit_rollouts is not None:
            found.append(RunLimit(place, rollouts, row.limit_rollouts, charged[0]))
        if row.limit_tokens is not None:
            found.append(RunLimit(place, tokens, row.limit_tokens, charged[1]))
        if row.limit_milliseconds is not None:
            found.append(RunLimit(place, time, seconds(row.limit_milliseconds), seconds(charged[2])))
    return found
