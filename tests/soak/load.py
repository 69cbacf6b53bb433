"""Open-loop load at a steady rate, and what was acknowledged compared with what the ledger has."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from services.allocator.database.store import SqlStore
from services.kit.database import connect
from services.kit.session import Database
from tests.load import poisson, summary
from tests.load.scenarios import allocator
from tests.soak.result import Result, say

PER_S = 20.0
"""Requests per second, each one write transaction: below what two shared cores with SQLite can do."""
PART_S = 60.0
"""Length of one schedule; they follow one another."""
TEAM = "soak"
GRANT = 2
"""Rollouts that each request opens a group with."""
EXPECTED = {200, 429, 503}
"""Good answers, and those that ask to come again."""


def load(seconds: float, seed: int) -> Result:
    """Send schedules until the time is over."""
    result = Result("load", "requests", seeds=str(seed))
    began = time.perf_counter()
    asyncio.run(_load(result, seconds, seed))
    result.seconds = time.perf_counter() - began
    return result


async def _load(result: Result, seconds: float, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="rb-soak-") as name:
        folder = Path(name)
        good = unsure = 0
        async with allocator(folder, [TEAM]) as target:
            began = time.perf_counter()
            for part in range(1_000_000):
                left = seconds - (time.perf_counter() - began)
                if left <= 1.0:
                    break
                lasts = min(PART_S, left)
                results = await target.fire(target.opens(TEAM, poisson(PER_S, lasts, seed + part)))
                result.operations += len(results)
                result.violations += [
                    f"G17: status {one.status} at {one.at_s:.1f} s" for one in results if one.status not in EXPECTED
                ]
                good += sum(one.status == 200 for one in results)
                unsure += sum(one.status not in {200, 429} for one in results)
                figures = summary(results, lasts)[TEAM]
                result.notes.append(f"{PER_S:g}/s for {lasts:.0f} s: {figures}")
                say(f"  load: {figures}")
        granted, discrepancies = await _ledger(folder)
    if not GRANT * good <= granted <= GRANT * (good + unsure):
        result.violations.append(f"G9: {GRANT * good} rollouts acknowledged, {granted} in the ledger")
    result.violations += [f"G2: {one}" for one in discrepancies]


async def _ledger(folder: Path) -> tuple[int, list[str]]:
    engine = connect(f"sqlite:///{folder / 'allocator.db'}")
    try:
        async with SqlStore(Database(engine)).transaction() as transaction:
            usage = await transaction.ledger.usage(TEAM, ("team",))
            found = [str(one) for one in await transaction.ledger.audit()]
    finally:
        await engine.dispose()
    return (usage[0].counts.granted if usage else 0), found
