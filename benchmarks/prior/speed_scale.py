"""Cost of a request, bulk loading and memory as evidence grows by powers of ten."""

from __future__ import annotations

import argparse
import asyncio
import time

from benchmarks.prior.speed_clock import Times, rss_mb
from benchmarks.prior.speed_service import TEAM, service
from benchmarks.prior.speed_world import POLICY, STEP, Instant, prompts, question, steps
from rollout_budget.wire import EvidenceRequest
from rollout_budget.wire.common import MAX_GROUPS
from services.prior_api.service import PriorService

POOL = 20_480
FIRST = 10_000
SETTLE_S = 4.0
"""Questions before the first that counts: until the fit from scratch that loading called for is made."""
STEPS_TIMED = 10
"""Steps of 512 new rows, each followed by a question, that are timed at each size."""


async def run(options: argparse.Namespace) -> None:
    """Print one line per size: loading, answers with nothing new, answers after a step of new rows, views, memory."""
    changes = {} if options.database is None else {"database_url": options.database}
    async with service(Instant(), threads=options.threads, **changes) as prior:
        step, rows = 0, 0
        wanted = FIRST
        while wanted <= options.rows:
            began, cpu, before = time.perf_counter(), time.process_time(), rows
            batch: list[EvidenceRequest] = []
            for request in steps(step, wanted - rows, POOL, 0):
                batch.append(request)
                if len(batch) == 8:
                    await _load(prior, batch)
                    batch = []
                step, rows = step + 1, rows + len(request.rows)
            await _load(prior, batch)
            per_s = [
                (rows - before) / (clock() - start)
                for clock, start in ((time.perf_counter, began), (time.process_time, cpu))
            ]
            print(
                f"  {rows:>9,} rows, loaded at {per_s[0]:,.0f}/s wall, {per_s[1]:,.0f}/s cpu; {rss_mb():.0f} MB",
                flush=True,
            )
            await _encode(prior, min(POOL, rows))
            step, rows = await _measure(prior, options, step, rows)
            wanted *= 10


async def _load(prior: PriorService, batch: list[EvidenceRequest]) -> None:
    if batch:
        request = EvidenceRequest.model_construct(
            rows=[row for part in batch for row in part.rows],
            prompts=[prompt for part in batch for prompt in part.prompts if prompt.text is not None],
            scope=None,
        )
        await prior.add_evidence(TEAM, POLICY, request)


async def _encode(prior: PriorService, pool: int) -> None:
    """Have every prompt's features ready, so that what is measured is evidence and not encoding."""
    for start in range(0, pool, MAX_GROUPS):
        part = prompts(range(start, min(start + MAX_GROUPS, pool)), texts=True)
        while (await prior.register_prompts(TEAM, part)).encoded < len(part):  # noqa: ASYNC110  the API is asked again
            await asyncio.sleep(0.1)


async def _measure(prior: PriorService, options: argparse.Namespace, step: int, rows: int) -> tuple[int, int]:
    pool = min(POOL, rows)
    still, after, adding, view, names = (Times() for _ in range(5))
    settled = time.monotonic() + SETTLE_S
    while time.monotonic() < settled:
        await prior.values(TEAM, question(step, pool, 0))
    for place in range(options.repeats):
        with still.once():
            await prior.values(TEAM, question(step, pool, place))
    for request in steps(step, STEPS_TIMED * STEP, POOL, 0):
        with adding.once():
            await prior.add_evidence(TEAM, POLICY, request)
        step, rows = step + 1, rows + len(request.rows)
        with after.once():
            await prior.values(TEAM, question(step, pool, step))
    for _ in range(options.repeats):
        with view.once():
            await prior.policy(TEAM, POLICY)
        with names.once():
            await prior.policies(TEAM)
    for name, times in (
        ("512 values, nothing new", still),
        ("512 values after 512 new rows", after),
        ("512 rows of evidence", adding),
        ("GET /policies/{policy}", view),
        ("GET /policies", names),
    ):
        print(f"    {name + ', ms:':<36} {times}", flush=True)
    print(f"    resident memory: {rss_mb():.0f} MB", flush=True)
    return step, rows
