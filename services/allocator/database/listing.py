"""The list of a team's runs, in stable pages. Changes nothing.

A page goes on after an id, so a run that is made meanwhile moves no other: it is read if it lies ahead. What runs have
drawn comes from the sums of usage, of this page's runs alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from rollout_budget.wire.listing import RunsAnswer, RunStatus, RunSummary
from services.allocator.database.tables import runs, usage_sums

COUNTED = ("granted", "committed", "overage", "reserved")


async def page(
    connection: AsyncConnection, team: str, *, status: RunStatus | None = None, after: str = "", limit: int = 100
) -> RunsAnswer:
    """Return at most `limit` runs of a team, from the first id above `after` on."""
    run = runs.c.run.collate("C") if connection.dialect.name == "postgresql" else runs.c.run
    query = select(runs.c.run, runs.c.spec, runs.c.finished).where(runs.c.team == team, run > after)
    if status is not None:
        query = query.where(runs.c.finished.is_(status == "finished"))
    rows = (await connection.execute(query.order_by(run).limit(limit + 1))).all()
    shown = rows[:limit]
    drawn = await _drawn(connection, team, [row.run for row in shown])
    found = [
        RunSummary(
            run_id=row.run,
            policy=json.loads(row.spec)["policy"],
            status="finished" if row.finished else "running",
            **drawn.get(row.run, {"granted": 0, "used": 0, "held": 0}),
        )
        for row in shown
    ]
    return RunsAnswer(runs=found, next=found[-1].run_id if len(rows) > limit else None)


async def _drawn(connection: AsyncConnection, team: str, named: Sequence[str]) -> dict[str, dict[str, Any]]:
    sums = [cast(func.sum(usage_sums.c[name]), BigInteger).label(name) for name in COUNTED]
    query = select(usage_sums.c.run, *sums).where(usage_sums.c.team == team, usage_sums.c.run.in_(named))
    return {
        row.run: {"granted": row.granted, "used": row.committed + row.overage, "held": row.reserved}
        for row in await connection.execute(query.group_by(usage_sums.c.run))
    }
