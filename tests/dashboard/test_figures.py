"""What the page says is what the ledger says: figures, forecasts, spending by minute, and what it costs to ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from rollout_budget.ledger.units import Amounts
from rollout_budget.wire import TeamLimits
from services.allocator.dashboard import charts, words
from services.allocator.dashboard.forecast import Rate, forecast, rate
from services.allocator.dashboard.reading import GROUPS_PER_RUN, MAX_RUNS, Picture, picture
from services.allocator.dashboard.spending import DAY_MINUTES, MINUTE_S, Spending, Spent
from services.allocator.dashboard.views import Board, Counters, board
from tests.allocator.running import Running, running
from tests.dashboard.scene import draw, signed_in

NOW = datetime(2026, 11, 28, 22, 0, 30, tzinfo=UTC).timestamp()
MINUTE = int(NOW) // MINUTE_S
PLAIN = Counters(violations=0, waiting=0, has_prior_service=True)


async def looked(allocator: Running, team: str, spending: Spending | None = None) -> Picture:
    """What the page reads of one team."""
    offset_s = allocator.service.store.clock_offset_s()
    async with allocator.service.store.reading(team) as connection:
        return await picture(connection, offset_s, [team], spending or Spending())


async def shown(allocator: Running, team: str = "default") -> Board:
    """The page of one team, before it is rendered."""
    return board(await looked(allocator, team), PLAIN)


@contextmanager
def counted(allocator: Running) -> Iterator[list[str]]:
    """The statements sent to the database in this block."""
    engine, sent = allocator.service.database.engine.sync_engine, list[str]()

    def before(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    event.listen(engine, "before_cursor_execute", before)
    yield sent
    event.remove(engine, "before_cursor_execute", before)


async def test_figures_equal_the_ledgers_own_answers(any_database: str, tmp_path: Path) -> None:
    """Limits, use, what is held, saved and drawn: on both databases, as `GET /v1/budget` and `GET /v1/runs` say it."""
    async with running(tmp_path, any_database) as allocator:
        limits = TeamLimits(rollouts=30, tokens_per_day=1_000, gpu_seconds=9.0, warn_at=0.25)
        headers = await allocator.new_key("alpha", limits=limits)
        await draw(allocator, headers, "r", ["g1", "g2", "g3"], limits={"rollouts": 20}, reference_group_size=8)
        opening = {"groups": [{"group_id": "open", "prompt_key": "k"}]}
        await allocator.http.post("/v1/runs/r/groups/open", json=opening, headers=headers)
        page = await shown(allocator, "alpha")
        budget = (await allocator.http.get("/v1/budget", headers=headers)).json()
    (card,) = page.budgets
    rollouts, gpu, tokens = card.limits
    assert (rollouts.used, rollouts.held, rollouts.left, rollouts.limit) == ("6", "2", "22", "30")
    assert budget["available"] == 22
    assert (rollouts.used_width, rollouts.held_width, rollouts.state) == (20.0, 6.67, "near")
    assert (tokens.title, tokens.used, tokens.state) == ("Tokens today", "240", "ok")
    assert (gpu.title, gpu.share) == ("GPU time in all", f"17{words.THIN}%")
    (run,) = page.runs
    assert (run.used, run.held, run.limit, run.limit_width) == ("6", "2", "20", 40.0)
    assert (run.saved, run.saved_share, run.mean_group) == ("18", f"75{words.THIN}%", "2.0")
    assert (run.groups, run.extended) == ("3", f"0{words.THIN}%")
    assert card.hour.text.startswith("6 rollouts in the last hour")
    assert [line.kind for line in page.entries[:2]] == ["reserve", "commit"]


async def test_decisions_of_a_run_are_those_of_its_groups(allocator: Running) -> None:
    """A group that was told to draw more and did is extended; the weight on the prior is what decisions said."""
    await draw(allocator, allocator.team, "r", ["plain"])
    body = {"groups": [{"group_id": "long", "prompt_key": "k", "prior": {"value": 0.5}}]}
    at = "/v1/runs/r/groups"
    await allocator.http.patch("/v1/runs/r", json={"price": 0.0}, headers=allocator.team)
    await allocator.http.post(f"{at}/open", json=body, headers=allocator.team)
    observed = await allocator.http.post(
        f"{at}/observe", json={"groups": [{"group_id": "long", "outcomes": [0.0, 1.0]}]}, headers=allocator.team
    )
    (decision,) = observed.json()["groups"]
    assert decision["action"] == "more"
    used = 2 + decision["more"]
    await allocator.http.post(
        f"{at}/close", json={"groups": [{"group_id": "long", "used": used}]}, headers=allocator.team
    )
    page = await shown(allocator)
    assert [line.group for line in page.groups] == ["long", "plain"]
    assert page.groups[0].drawn == str(used)
    assert page.groups[0].weight == words.percent(1 - decision["weight"])
    assert page.runs[0].extended == f"50{words.THIN}%"


async def test_spending_is_read_once_and_goes_on(any_database: str, tmp_path: Path) -> None:
    """A later look adds what is new to what was known, and knows what a fresh one knows; days fall off the end."""
    async with running(tmp_path, any_database) as allocator:
        headers, spending = await allocator.new_key("alpha"), Spending()
        await draw(allocator, headers, "r", ["g1"])
        first = (await looked(allocator, "alpha", spending)).accounts[0].spent
        assert sum(used.rollouts for used in first.minutes.values()) == 2
        await draw(allocator, headers, "r", ["g2", "g3"])
        later = (await looked(allocator, "alpha", spending)).accounts[0].spent
        assert later == (await looked(allocator, "alpha")).accounts[0].spent
        assert sum(used.rollouts for used in later.minutes.values()) == 6
        assert sum(used.tokens for used in later.minutes.values()) == 240
        assert sum(used.milliseconds for used in later.minutes.values()) == 1_500
        allocator.service.store.clock_offset_s = lambda: float(DAY_MINUTES * MINUTE_S)
        assert (await looked(allocator, "alpha", spending)).accounts[0].spent.minutes == {}
        idle = Spending()
        assert (await looked(allocator, "alpha", idle)).accounts[0].spent == Spent(later.last, {})
        with counted(allocator) as asked:
            await looked(allocator, "alpha", idle)
        assert not [one for one in asked if "at_s >=" in one]  # a team that has been idle for a day is not read again


async def test_a_page_asks_no_more_of_many_runs_than_of_as_many_as_it_shows(allocator: Running) -> None:
    """Statements and lines are bounded, whatever a team has; the rest is counted, and left to the command line."""
    for number in range(MAX_RUNS + 5):
        spec = {"run_id": f"run-{number:03}", "policy": "p", "k_init": 2}
        await allocator.http.post("/v1/runs", json=spec, headers=allocator.team)
    await draw(allocator, allocator.team, "busy", [f"g{number}" for number in range(GROUPS_PER_RUN + 3)])
    with counted(allocator) as sent:
        page = await shown(allocator)
    assert len(sent) <= 17
    assert page.runs[0].run == "busy"
    assert page.runs[0].groups == str(GROUPS_PER_RUN)
    assert (len(page.runs), page.more_runs) == (MAX_RUNS, 6)
    async with signed_in(allocator, allocator.team) as client:
        assert "6 more:" in (await client.get("/dashboard")).text


async def test_a_finished_run_comes_after_running_ones(allocator: Running) -> None:
    """And says that it has finished."""
    for run in ("z-finished", "a-running"):
        await draw(allocator, allocator.team, run, ["g"])
    await allocator.http.post("/v1/runs/z-finished/finish", headers=allocator.team)
    page = await shown(allocator)
    assert [(line.run, line.finished) for line in page.runs] == [("a-running", False), ("z-finished", True)]
    assert page.run_counts == "1 running, 1 finished"


async def test_an_empty_page_says_what_to_do_next(allocator: Running) -> None:
    """No limit, no run, no group, no entry: each with the command or the call that changes it."""
    async with signed_in(allocator, allocator.team) as client:
        page = (await client.get("/dashboard")).text
    for hint in (
        "admin budget set default --rollouts",
        "POST /v1/runs",
        "No group was closed yet",
        "Nothing was booked",
    ):
        assert hint in page


async def test_a_limit_in_shadow_mode_is_marked(allocator: Running) -> None:
    """It refuses nothing and says how much it would have."""
    headers = await allocator.new_key("alpha", limits=TeamLimits(rollouts=3, mode="shadow"))
    await draw(allocator, headers, "r", ["g1", "g2"])
    (card,) = (await shown(allocator, "alpha")).budgets
    assert card.shadow
    assert dict(card.facts)["Shadow would refuse"] == "1"
    assert card.limits[0].forecast == "reached; shadow mode refuses nothing"


def test_the_rate_is_that_of_the_time_with_spending() -> None:
    """Ten minutes of work are not spread over an hour; what is older than an hour counts no more."""
    began = Spent(9, {MINUTE - 9: Amounts(600, 6_000, 60_000), MINUTE - 70: Amounts(10_000, 0, 0)})
    found = rate(began, NOW)
    assert found.over_s == pytest.approx(9 * 60 + 30)
    assert found.rollouts == pytest.approx(600 / 570)
    assert found.of("gpu_seconds_per_day") == pytest.approx(60 / 570)
    assert rate(Spent(0, {}), NOW) == Rate(0.0, 0.0, 0.0, 59 * 60 + 30.0)


def test_a_forecast_says_when_unless_the_window_ends_first() -> None:
    """NOW is 2 h less half a minute before midnight, two days and that before the month's end."""
    pace = Rate(rollouts=1.0, tokens=0.0, gpu_seconds=0.5, over_s=3_600)
    assert forecast("rollouts", 7_200, pace, NOW).after_s == 7_200
    assert forecast("rollouts", 7_200, pace, NOW).renews_s is None
    today = forecast("rollouts_per_day", 7_200, pace, NOW)
    assert (today.after_s, today.renews_s) == (None, 7_170)
    assert forecast("rollouts_per_day", 7_000, pace, NOW).after_s == 7_000
    assert forecast("rollouts_per_month", 1e9, pace, NOW).renews_s == 7_170 + 2 * 86_400
    assert forecast("tokens", 5, pace, NOW).after_s is None
    assert forecast("gpu_seconds", -3, pace, NOW).after_s == 0.0
    assert forecast("rollouts", 1e12, pace, NOW).after_s is None


def test_charts_end_now_and_lose_nothing() -> None:
    """The newest minute is the last bar, the largest as high as the chart; the smallest can be seen."""
    spent = Spent(1, {MINUTE: Amounts(1, 0, 0), MINUTE - 59: Amounts(1_000, 0, 0), MINUTE - 60: Amounts(7, 0, 0)})
    hour = charts.hour(spent, NOW)
    assert [bar.x for bar in hour.bars] == [0.0, 236.0]
    assert [bar.height for bar in hour.bars] == [charts.HEIGHT, charts.LEAST_HEIGHT]
    assert hour.text == "1,001 rollouts in the last hour, at most 1,000 in min"
    assert charts.day(spent, NOW).text == "1,008 rollouts in the last 24 hours, at most 1,000 in 30 min"
    assert charts.has_more_than_an_hour(spent, NOW)
    assert not charts.has_more_than_an_hour(Spent(1, {MINUTE - 59: Amounts(1, 0, 0)}), NOW)
    assert charts.day(Spent(0, {}), NOW).text == "No rollouts in the last 24 hours"


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (words.count(-1234), "~1,234"),
        (words.short(9_999), "9,999"),
        (words.short(12_345), "12.3_k"),
        (words.short(123_456_789), "123_M"),
        (words.short(999_999), "1.00_M"),
        (words.short(31_000), "31.0_k"),
        (words.short(-5_891_000), "~5.89_M"),
        (words.hours(59.6), "60_GPU-s"),
        (words.hours(5_400), "1.50_GPU-h"),
        (words.hours(-90_000), "~25.0_GPU-h"),
        (words.percent(0.0), "0_%"),
        (words.percent(0.0001), "<_1_%"),
        (words.percent(0.9999), ">_99_%"),
        (words.percent(1.019), "102_%"),
        (words.percent(-0.101), "~10_%"),
        (words.percent(None), words.NONE),
        (words.share(1, 0), words.NONE),
        (words.figure(0.0039), "0.0039"),
        (words.figure(0.00000123), "1.2e~06"),
        (words.figure(0.0), "0.0"),
        (words.span(20), "under a minute"),
        (words.span(3_600), "1_h"),
        (words.span(4_000), "1_h 7_min"),
        (words.span(90_000), "1_d 1_h"),
        (words.moment(NOW + 60, NOW), "22:01 UTC"),
        (words.moment(NOW + 86_400, NOW), "29 Nov, 22:00 UTC"),
    ],
)
def test_figures_are_written_for_people(written: str, wanted: str) -> None:
    """Grouped digits, one unit, no false precision, and no rounding to none or all. `_` is a thin blank, `~` a minus."""
    assert written == wanted.replace("_", words.THIN).replace("~", "\N{MINUS SIGN}")
