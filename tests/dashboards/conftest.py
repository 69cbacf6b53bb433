"""One stage for all tests of queries: both services, the demo's load on them, and a Prometheus that scraped it all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from rollout_budget.client import AdminClient, AllocatorClient
from rollout_budget.demo.cast import TEAMS
from rollout_budget.demo.load import Plan, run
from rollout_budget.wire import (
    BudgetView,
    CloseGroup,
    CloseRequest,
    KeyCreate,
    OpenGroup,
    OpenRequest,
    RunSpec,
    TeamCreate,
    TeamLimits,
    UsageQuery,
    UsageRow,
)
from services.allocator.app import create_app
from services.allocator.settings import Settings
from services.prior_api.app import create_app as create_prior
from services.prior_api.settings import Settings as PriorSettings
from tests.dashboards.prometheus import SCRAPE_S, Prometheus, prometheus
from tests.served import served
from tests.tools import find_tool

STEPS, PACE = 16, 4.0
"""Four seconds of load and more: a dozen scrapes to take rates and slopes from."""
UNASKED, DRAWN_UNASKED = "unasked", (3, 5)
"""A run that asks for no decision, and what two groups of it draw of their four."""
LIMITS = {
    **TEAMS,
    "maths": TeamLimits(rollouts=1_000_000, rollouts_per_month=100_000),
    "agents": TeamLimits(rollouts=800, warn_at=0.8),
}
"""One team has a limit per month, which the demo leaves out, and one runs out within these steps."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What was scraped, and what the ledger itself says afterwards. `at` is a time at which all of it was scraped."""

    prometheus: Prometheus
    at: float
    usage: list[UsageRow]
    budgets: dict[str, BudgetView]


@pytest.fixture(scope="package")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Run the load once; skip where there is no Prometheus."""
    find_tool("prometheus")
    folder = tmp_path_factory.mktemp("stage")
    with ExitStack() as stack:
        prior = stack.enter_context(served(create_prior(PriorSettings(data=folder / "prior"))))
        allocator = stack.enter_context(served(create_app(_settings(folder, prior))))
        targets = {"allocator": allocator, "prior": prior}
        scraping = stack.enter_context(
            prometheus(folder, {job: url.removeprefix("http://") for job, url in targets.items()})
        )
        key = (folder / "allocator" / "admin.key").read_text().strip()
        usage, budgets = asyncio.run(_load(allocator, key, lambda: scraping.until_scraped(since=time.time())))
        scraping.until(f"min(rollout_budget_ledger_read_timestamp_seconds) > {time.time()}")
        scraping.until_scraped(since=time.time())
        yield Stage(scraping, time.time(), usage, budgets)


def _settings(folder: Path, prior: str) -> Settings:
    return Settings(
        data=folder / "allocator",
        prior_url=prior,
        prior_key=(folder / "prior" / "prior.key").read_text().strip(),
        gauges_every_s=SCRAPE_S / 2,
        deliver_every_s=0.2,
    )


async def _unasked(client: AllocatorClient, scrape: Callable[[], None]) -> None:
    """Draw as a trainer does that went on by itself: nothing is observed, one rollout less, or more, than was granted."""
    await client.create_run(RunSpec(run_id=UNASKED, policy="hand", k_init=4))
    groups = [OpenGroup(group_id=f"g{used}", prompt_key=f"{used}") for used in DRAWN_UNASKED]
    await client.open(UNASKED, OpenRequest(groups=groups))
    scrape()
    closing = [CloseGroup(group_id=f"g{used}", used=used, outcomes=[1.0] * used) for used in DRAWN_UNASKED]
    await client.close(UNASKED, CloseRequest(groups=closing))


async def _load(url: str, key: str, scrape: Callable[[], None]) -> tuple[list[UsageRow], dict[str, BudgetView]]:
    async with AdminClient(url, key) as admin:
        for team, limits in LIMITS.items():
            await admin.create_team(TeamCreate(team=team, name=f"demo: {team}", limits=limits))
        await run(Plan(url, key, steps=STEPS, pace=PACE, stamp="t"), lambda _line: None)
        token = (await admin.create_key(KeyCreate(team="maths"), idempotency_key="by hand")).token
        async with AllocatorClient(url, token) as client:
            await _unasked(client, scrape)
        rows = (await admin.show_usage(by=("team", "run", "policy"), query=UsageQuery())).rows
        return rows, {team: await admin.show_budget(team) for team in LIMITS}
