"""Usage on every allocator: rows add up to the ledger to the last rollout, pages to the whole, figures to their names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rollout_budget.client.base import Allocator
from rollout_budget.engine.ports import Store
from rollout_budget.errors import InvalidInput
from rollout_budget.ledger.base import Account, Ask, Selection, Settlement
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    Dimension,
    OpenGroup,
    OpenRequest,
    RolloutCounts,
    RunLimits,
    RunSpec,
    SuppliedPrior,
    UsageQuery,
    UsageRow,
)
from tests.conformance.implementations import World
from tests.conformance.ledgers import DAY_S, using

WHOLE = tuple(name for name, field in RolloutCounts.model_fields.items() if field.annotation is int)
RUNS = ["Zoe", "alpha", "beta/1", "Émile", "zeta"]
"""Their order by characters is none that a language has."""
PRIOR = SuppliedPrior(value=0.5, standard_error=0.1)


async def spend(allocator: Allocator) -> None:
    """Five runs of two policies: some drawn, some returned, some refused, some beyond the grant, tokens in one."""
    for place, run_id in enumerate(RUNS):
        limits = RunLimits(rollouts=9) if place == 1 else RunLimits()
        await allocator.create_run(RunSpec(run_id=run_id, policy="small", k_init=4, limits=limits))
        groups = [
            OpenGroup(group_id=f"g{one}", prompt_key="k", prior=PRIOR, policy="large" if one % 2 else None)
            for one in range(3)
        ]
        await allocator.open(run_id, OpenRequest(groups=groups))
        used = [4, 1, 6]
        closed = [
            CloseGroup(group_id=f"g{one}", used=used[one], tokens=100 * place if one == 0 else None, seconds=0.5)
            for one in range(2 + place % 2)
        ]
        await allocator.close(run_id, CloseRequest(groups=closed))


def total(rows: list[UsageRow]) -> dict[str, int]:
    """Sum the whole numbers of rows."""
    return {name: sum(getattr(row.counts, name) for row in rows) for name in WHOLE}


@pytest.mark.parametrize("by", [("run",), ("policy",), ("day",), ("run", "policy"), ("run", "policy", "day")])
async def test_rows_add_up_to_the_ledger(allocator: Allocator, by: tuple[Dimension, ...]) -> None:
    """However they are grouped: the same sums as the budget's counters and as the record of the ledger, line by line."""
    await spend(allocator)
    rows = (await allocator.usage(by)).rows
    whole = (await allocator.budget()).usage
    assert total(rows) == {name: getattr(whole, name) for name in WHOLE}
    lines = (await allocator.entries(limit=500)).entries
    for kind, figure in (
        ("reserve", "granted"),
        ("commit", "committed"),
        ("refuse", "refused"),
        ("overage", "overage"),
    ):
        assert sum(line.rollouts for line in lines if line.kind == kind) == total(rows)[figure] > 0
    assert sum(row.used for row in rows) == whole.committed + whole.overage
    assert sum(row.returned for row in rows) == whole.released + whole.expired > 0


async def test_a_row_says_what_a_rollout_cost(allocator: Allocator) -> None:
    """Tokens and seconds per rollout drawn, overage included; null where nobody reported any."""
    await spend(allocator)
    rows = {row.run: row for row in (await allocator.usage(("run",))).rows}
    assert rows["alpha"].tokens_per_rollout == 100 / rows["alpha"].used
    assert rows["alpha"].gpu_seconds_per_rollout == 1.5 / rows["alpha"].used
    assert rows["Zoe"].tokens_per_rollout is None


@pytest.mark.parametrize("limit", [1, 2, 9, 10])
async def test_pages_add_up_to_the_whole(allocator: Allocator, limit: int) -> None:
    """Every row once, in the order of characters, whatever the size of a page and the database's own language."""
    await spend(allocator)
    by: tuple[Dimension, ...] = ("run", "policy")
    whole = (await allocator.usage(by)).rows
    assert [(row.run, row.policy) for row in whole] == [
        (run, policy) for run in sorted(RUNS) for policy in ("large", "small")
    ]
    pages = [await allocator.usage(by, UsageQuery(limit=limit))]
    while pages[-1].next is not None:
        pages.append(await allocator.usage(by, UsageQuery(limit=limit, after=pages[-1].next)))
    assert [row for page in pages for row in page.rows] == whole
    assert len(pages) == -(-len(whole) // limit)


async def test_a_page_stays_in_step_while_rows_are_added(allocator: Allocator) -> None:
    """A run that comes between two pages is read if it lies ahead, and moves no other row."""
    await spend(allocator)
    first = await allocator.usage(("run",), UsageQuery(limit=2))
    for run_id in ("aaa", "yes"):
        await allocator.create_run(RunSpec(run_id=run_id, policy="small", k_init=4))
        await allocator.open(run_id, OpenRequest(groups=[OpenGroup(group_id="g", prompt_key="k", prior=PRIOR)]))
    rest = await allocator.usage(("run",), UsageQuery(after=first.next))
    assert [row.run for row in first.rows + rest.rows] == ["Zoe", "alpha", "beta/1", "yes", "zeta", "Émile"]


async def test_a_selection_is_of_runs_and_policies(allocator: Allocator) -> None:
    await spend(allocator)
    rows = (await allocator.usage(("run", "policy"), UsageQuery(run="beta/1", policy="large"))).rows
    assert [(row.run, row.policy, row.counts.committed) for row in rows] == [("beta/1", "large", 1)]
    assert (await allocator.usage(("run",), UsageQuery(run="nobody"))).rows == []


NUL, HALF_CHARACTER, DEEP = "WyJcdTAwMDAiXQ", "WyJcdWQ4MDAiXQ", "W1tb" * 1_000
"""What no name holds, and what no parser follows to the end."""


@pytest.mark.parametrize("after", ["?", "AAAA", "eyJhIjoxfQ", "WyJhIiwiYiJd", NUL, HALF_CHARACTER, DEEP])
async def test_a_cursor_of_something_else_is_refused(allocator: Allocator, after: str) -> None:
    """Not base64, not JSON, not a list, of a question with more dimensions, or nothing that a database can look for."""
    with pytest.raises(InvalidInput, match="after"):
        await allocator.usage(("run",), UsageQuery(after=after))


async def test_days_are_selected_with_their_ends(store: Store, world: World) -> None:
    """By the ledger's clock; a rollout counts on the day of its grant."""
    account = Account("team", "run")
    async with using(store) as ledger:
        await ledger.open_account(account, RunLimits())
    for day in range(3):
        async with using(store) as ledger:
            ask = Ask(f"day {day}", day + 1, policy="p")
            await ledger.reserve(account, [ask], 1e6, lambda left: [left])
            await ledger.settle(account, [Settlement((ask.id,), used=day + 1)])
        world.clock.advance(DAY_S)
    async with using(store) as ledger:
        days = [row.day for row in await ledger.usage("team", ["day"])]
        assert days == [_later(days[0], one) for one in range(3)]
        for since, until, committed in (
            (days[0], days[0], 1),
            (days[1], None, 5),
            (None, days[1], 3),
            (days[2], days[1], 0),
        ):
            rows = await ledger.usage("team", ["team"], Selection(since=since, until=until))
            assert sum(row.counts.committed for row in rows) == committed


def _later(day: str | None, days: int) -> str:
    assert day is not None
    return (datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=days)).date().isoformat()
