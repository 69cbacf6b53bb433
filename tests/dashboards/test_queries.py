"""Every query of every dashboard, asked of a real Prometheus that scraped the real services under the demo's load."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from matplotlib.axes import Axes

from rollout_budget.demo.cast import LINES
from rollout_budget.wire import UsageRow
from scripts.dashboards import draw
from tests.dashboards.boards import NAMES, asks, filled, panels, variables
from tests.dashboards.conftest import UNASKED, Stage
from tests.dashboards.prometheus import Labels
from tests.paths import ROOT

WINDOW = "1m"
"""Longer than the load: rates are over all of it."""
EVERYTHING: Mapping[str, str | list[str]] = dict.fromkeys(("team", "run", "policy", "job"), ".*") | {"window": WINDOW}
"""What Grafana fills in where all values are chosen (`allValue`)."""
Place = tuple[str, str, str, str]
Figure = Callable[[Stage], dict[Labels, float]]
FORECASTS = {"Forecast: share used at the end", "Time left at this pace", "Time left of runs at this pace"}


@pytest.mark.parametrize("name", NAMES)
def test_every_query_parses_and_returns_series(stage: Stage, name: str) -> None:
    """With all variables at All; every figure is a finite number."""
    for ask in asks(name):
        found = stage.prometheus.query(filled(ask.expr, EVERYTHING), stage.at)
        assert found, f"{ask.place}: no series"
        assert all(map(math.isfinite, found.values())), f"{ask.place}: {found}"


def test_every_figure_of_the_ledger_is_the_ledgers_own(stage: Stage) -> None:
    """All of the Budget dashboard but its forecasts, and the figures on top of Decisions, to the last digit."""
    figures = _figures()
    stated = [ask for ask in asks("budget") if ask.place[2] not in FORECASTS]
    stated += [ask for ask in asks("decisions") if ask.place[1] == "Since the runs began"]
    assert {ask.place for ask in stated} == set(figures)
    for ask in stated:
        found = stage.prometheus.query(filled(ask.expr, EVERYTHING), stage.at)
        expected = figures[ask.place](stage)
        assert expected, ask.place
        assert found == expected, ask.place


def test_the_load_shows_what_the_panels_are_for(stage: Stage) -> None:
    """Otherwise zeros would be compared with zeros: some rollouts were drawn, returned, refused, saved, granted later."""
    counts = [row.counts for row in stage.usage]
    for name in ("committed", "released", "overage", "refused", "groups_closed", "tokens", "seconds", "extra"):
        assert sum(getattr(one, name) for one in counts) > 0, name
    assert any(one.saved > 0 for one in counts)
    assert {use.name for view in stage.budgets.values() for use in view.uses} >= {
        "rollouts", "rollouts_per_day", "rollouts_per_month", "tokens_per_day",
    }  # fmt: skip


def test_forecasts_go_beyond_what_is_used(stage: Stage) -> None:
    """At any pace above 0 a forecast exceeds the present share, and what is left lasts for a positive time or is gone."""
    shares = {(view.team, str(use.name)): use.share for view in stage.budgets.values() for use in view.uses}
    seen: set[tuple[str, str]] = set()
    for ask in (ask for ask in asks("budget") if ask.place[2] in FORECASTS):
        for labels, value in stage.prometheus.query(filled(ask.expr, EVERYTHING), stage.at).items():
            named = dict(labels)
            if ask.place[2] == "Forecast: share used at the end":
                seen.add((named["team"], named["limit"]))
                share = shares[named["team"], named["limit"]]
                assert value > share or value == share == 1.0  # what is spent from the first scrape on has no pace
            else:
                assert value >= 0.0
    assert seen == set(shares)


def test_a_run_that_asks_nothing_is_seen_to_decide_by_itself(stage: Stage) -> None:
    """What the server sees of a fallback: all groups of that run, none of the demo's."""
    (ask,) = (ask for ask in asks("decisions") if ask.place[2] == "Decided by the trainer (fallback)")
    found = stage.prometheus.query(filled(ask.expr, EVERYTHING), stage.at)
    shares = {dict(labels)["run"]: share for labels, share in found.items()}
    assert shares.pop(UNASKED) == 1.0
    assert set(shares.values()) == {0.0}
    assert set(shares) <= {str(row.run) for row in stage.usage}


def test_worth_of_the_last_rollout_is_near_its_price(stage: Stage) -> None:
    """Of a run of our rule: a rollout is drawn while it is worth its price, so the last one is worth about as much."""
    run = f"{LINES[0].spec.run_id}-t-1"
    worth, price = (
        stage.prometheus.query(filled(ask.expr, {**EVERYTHING, "run": [run]}), stage.at)
        for title in ("Worth of the last rollout", "Price")
        for ask in asks("decisions")
        if ask.place[2] == title
    )
    ((_, last),), ((_, least),) = worth.items(), price.items()
    assert 0.5 * least < last < 8.0 * least


def test_variables_list_what_the_ledger_knows(stage: Stage) -> None:
    """Teams, runs of a team, policies of a run, and the services."""
    line = LINES[0]
    chosen = {"team": [line.team], "run": [f"{line.spec.run_id}-t-1"]}
    expected = {
        "team": {row.team for row in stage.usage},
        "run": {row.run for row in stage.usage if row.team == line.team},
        "policy": {line.spec.policy},
        "job": {"allocator", "prior"},
    }
    for name in NAMES:
        found = {key: one for key, one in variables(name).items() if one["type"] == "query"}
        assert set(found) == set(expected) - (set() if name == "service" else {"job"})
        for key, one in found.items():
            parts = re.fullmatch(r"label_values\((.+), (\w+)\)", one["query"]["query"])
            assert parts is not None
            assert set(stage.prometheus.values(parts[2], filled(parts[1], chosen))) == expected[key], (name, key)


def test_what_is_chosen_narrows_what_is_shown(stage: Stage) -> None:
    """One team, two runs, one policy: as Grafana fills them in, several as alternatives."""
    (drawn,) = (ask for ask in asks("budget") if ask.place[1:] == ("Runs", "Drawn by run", "A"))
    (price,) = (ask for ask in asks("decisions") if ask.place[2:] == ("Price", "A"))
    runs = sorted(str(row.run) for row in stage.usage if row.team == "maths")
    used = {row.run: row.used for row in stage.usage}
    policy = next(str(row.policy) for row in stage.usage if row.run == runs[0])
    for chosen, left in (
        ({"team": ["maths"]}, runs),
        ({"team": ["maths", "code"], "run": runs}, runs),
        ({"team": ["maths"], "policy": [policy]}, runs[:1]),
        ({"team": ["code"], "run": runs}, []),
    ):
        values = {**EVERYTHING, **chosen}
        found = stage.prometheus.query(filled(drawn.expr, values), stage.at)
        assert {dict(labels)["run"]: value for labels, value in found.items()} == {run: used[run] for run in left}
        priced = stage.prometheus.query(filled(price.expr, values), stage.at)
        assert {dict(labels)["run"] for labels in priced} == set(left)


def test_a_dashboard_can_be_drawn_without_grafana(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every panel with curves has some, named as in its legend, and the file is a picture."""
    drawn: list[Axes] = []
    plot = draw._draw

    def watched(axis: Axes, panel: dict[str, Any], http: httpx.Client, span_s: float, window: str) -> None:
        plot(axis, panel, http, span_s, window)
        drawn.append(axis)

    monkeypatch.setattr(draw, "_draw", watched)
    file = tmp_path / "prior.png"
    options = ["prior", "--prometheus", stage.prometheus.url, "--minutes", "2", "--out", str(file)]
    assert draw.main(options) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    curves = {axis.get_title(): len(axis.get_lines()) for axis in drawn}
    assert set(curves) == {panel["title"] for _, panel in panels("prior") if panel["type"] == "timeseries"}
    assert min(curves.values()) >= 1
    assert curves["Squared error"] == len({row.run for row in stage.usage})


def test_alerts_ask_for_metrics_that_there_are(stage: Stage) -> None:
    """Every name in the rules was scraped: a rule on a metric that was renamed would never fire."""
    names = set(stage.prometheus.values("__name__", '{__name__!=""}'))
    for file in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"):
        asked = set(re.findall(r"\brollout_budget_\w+", file.read_text("utf-8")))
        assert asked
        assert asked <= names


def _figures() -> dict[Place, Figure]:
    """Return what each panel has to show, from the ledger's answers."""
    now, became, spent = "Now", "What became of grants", "Spend by policy"
    saved = _sum(lambda row: row.counts.saved)
    drawn = _sum(lambda row: row.used)
    closed = _sum(lambda row: row.counts.groups_closed)
    granted = _sum(lambda row: row.counts.granted)
    whole = "Since the runs began"
    return {
        ("budget", now, "Drawn", "A"): drawn,
        ("budget", now, "Held", "A"): _sum(lambda row: row.counts.reserved),
        ("budget", now, "Saved", "A"): saved,
        ("budget", now, "Share saved", "A"): lambda stage: _only(
            _one(saved, stage) / (_one(saved, stage) + _one(drawn, stage))
        ),
        ("budget", now, "Refused", "A"): _sum(lambda row: row.counts.refused),
        ("budget", now, "Returned", "A"): _sum(lambda row: row.returned),
        **_limits(),
        ("budget", "Runs", "Drawn by run", "A"): _sum(lambda row: row.used, "team", "run"),
        ("budget", "Runs", "Saved by run", "A"): _sum(lambda row: row.counts.saved, "team", "run"),
        ("budget", became, "Refused", "A"): _sum(lambda row: row.counts.refused, "team", "run"),
        ("budget", became, "Returned", "A"): _sum(lambda row: row.counts.released, "team", "run"),
        ("budget", became, "Returned", "B"): _sum(lambda row: row.counts.expired, "team", "run"),
        ("budget", became, "Beyond grants, and would-be refusals", "A"): _sum(
            lambda row: row.counts.overage, "team", "run"
        ),
        ("budget", became, "Beyond grants, and would-be refusals", "B"): _sum(
            lambda row: row.counts.shadow_refused, "team", "run"
        ),
        ("budget", spent, "Rollouts by policy", "A"): _sum(lambda row: row.used, "policy"),
        ("budget", spent, "Tokens by policy", "A"): _sum(lambda row: row.counts.tokens, "policy"),
        ("budget", spent, "GPU time by policy", "A"): _sum(lambda row: row.counts.seconds, "policy"),
        ("decisions", whole, "Groups closed", "A"): closed,
        ("decisions", whole, "Mean group size", "A"): lambda stage: _only(_one(drawn, stage) / _one(closed, stage)),
        ("decisions", whole, "Granted", "A"): granted,
        ("decisions", whole, "Share granted later", "A"): lambda stage: _only(
            _one(_sum(lambda row: row.counts.extra), stage) / _one(granted, stage)
        ),
    }


def _limits() -> dict[Place, Figure]:
    """Return what the panels of limits have to show: of teams by `GET /v1/budget`, of the one run that has a limit."""
    teams, runs = ("budget", "Teams"), ("budget", "Runs")

    def of_teams(figure: Callable[[float, float, float], float], which: str = "") -> Figure:
        return lambda stage: {
            frozenset({"team": team, "limit": use.name}.items()): figure(use.limit, use.used, use.share)
            for team, view in stage.budgets.items()
            for use in view.uses
            if which in use.name
        }

    def of_runs(figure: Callable[[float, float], float]) -> Figure:
        limited = {line.spec.policy: line.spec.limits.rollouts for line in LINES if line.spec.limits.rollouts}
        return lambda stage: {
            frozenset({"team": str(row.team), "run": str(row.run), "limit": "rollouts"}.items()): figure(
                limited[row.policy], row.used + row.counts.reserved
            )
            for row in stage.usage
            if row.policy in limited
        }

    return {
        (*teams, "Limits of teams", "A"): of_teams(lambda limit, _used, _share: limit),
        (*teams, "Limits of teams", "B"): of_teams(lambda _limit, used, _share: used),
        (*teams, "Limits of teams", "C"): of_teams(lambda _limit, _used, share: share),
        (*teams, "Share of limits in use", "A"): of_teams(lambda _limit, _used, share: share),
        (*teams, "Left under rollout limits (burn-down)", "A"): of_teams(
            lambda limit, used, _share: limit - used, which="rollouts"
        ),
        (*runs, "Limits of runs", "A"): of_runs(lambda limit, _used: limit),
        (*runs, "Limits of runs", "B"): of_runs(lambda _limit, used: used),
        (*runs, "Limits of runs", "C"): of_runs(lambda limit, used: used / limit),
        (*runs, "Left under limits of runs (burn-down)", "A"): of_runs(lambda limit, used: limit - used),
    }


def _sum(of_row: Callable[[UsageRow], float], *by: str) -> Figure:
    def summed(stage: Stage) -> dict[Labels, float]:
        found: defaultdict[Labels, float] = defaultdict(float)
        for row in stage.usage:
            found[frozenset({name: str(getattr(row, name)) for name in by}.items())] += of_row(row)
        return dict(found)

    return summed


def _one(figure: Figure, stage: Stage) -> float:
    return figure(stage)[frozenset()]


def _only(value: float) -> dict[Labels, float]:
    return {frozenset(): value}
