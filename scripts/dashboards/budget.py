"""The *Budget* dashboard: limits and use, burn-down and forecast, refused and returned, saved, spend by policy."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from scripts.dashboards.parts import (
    GREEN,
    OF_RUN,
    OF_RUN_LIMIT,
    OF_TEAM,
    PREFIX,
    RED,
    RUN,
    YELLOW,
    AnyPanel,
    Query,
    Steps,
    View,
    bars,
    board,
    booked,
    figure,
    lines,
    of_policy,
    rows,
    usage,
)

DRAWN = "committed|overage"
NEAR: Steps = ((None, GREEN), (0.8, YELLOW), (1.0, RED))
"""Answers warn from 80% on unless a team says otherwise."""
SAYS = """What the ledger has booked and what is left of it. All figures of rollouts are read from the ledger itself, every
15 s, and equal `GET /v1/usage` and `GET /v1/budget`."""
DAY_LEFT_S = "(86400 - time() % 86400)"
"""Seconds to the end of the UTC day, which limits per day count on."""
MONTH_LEFT_S = "(scalar(days_in_month() - day_of_month()) * 86400 + 86400 - time() % 86400)"
WHOLE = 'limit=~"rollouts|tokens|gpu_seconds"'


def make() -> dashboard.Dashboard:
    """Return the dashboard."""
    sections = [
        ("Now", _now()),
        ("Teams", _teams()),
        ("Runs", _runs()),
        ("What became of grants", _grants()),
        ("Spend by policy", _policies()),
    ]
    return board("Budget", SAYS, sections, window="1h")


def _now() -> list[AnyPanel]:
    saved = booked("saved_rollouts")
    return [
        figure(View(4, "Drawn", "Rollouts drawn: within their grants and beyond.", "short", [Query(usage(DRAWN))])),
        figure(View(4, "Held", "Rollouts granted and neither drawn nor given back yet.", "short", [Query(usage("reserved"))])),
        figure(
            View(4, "Saved", "Reference group size of the runs times closed groups, less what was drawn. Negative where "
                 "groups were larger than that.", "short", [Query(saved)]),
        ),
        figure(
            View(4, "Share saved", "Saved, of what groups of the reference size would have drawn.", "percentunit",
                 [Query(f"{saved} / ({saved} + {usage(DRAWN)})")]),
        ),
        figure(View(4, "Refused", "Rollouts asked for that a limit did not let through.", "short", [Query(usage("refused"))])),
        figure(
            View(4, "Returned", "Rollouts granted and not drawn: released when their group closed, or expired.", "short",
                 [Query(usage("released|expired"))]),
        ),
    ]  # fmt: skip


def _teams() -> list[AnyPanel]:
    limit, used, pace = _of_team("limit"), _of_team("limit_used"), _pace("limit_used", 'team=~"$team"', "team, limit")
    share = _of_team("limit_used_ratio")
    return [
        rows(
            View(12, "Limits of teams", "Each limit by name, which says its unit and period, and what is used or held of it. "
                 "Days and months are UTC.", "short", [Query(limit), Query(used), Query(share)]),
            {"A": ("limit is", "short"), "B": ("used or held", "short"), "C": ("share", "percentunit")},
        ),
        bars(
            View(12, "Share of limits in use", "What is used or held, of the limit. From 1 on nothing is granted, unless "
                 "the limit is in shadow mode.", "percentunit", [Query(share, OF_TEAM)]),
            steps=NEAR, most=1.0,
        ),
        lines(
            View(12, "Left under rollout limits (burn-down)", "Limit less what is used or held. It steps up where a limit "
                 "is raised, and where a day or month begins.", "short",
                 [Query(_of_team("limit", ',limit=~"rollouts.*"') + " - " + _of_team("limit_used", ',limit=~"rollouts.*"'),
                        OF_TEAM)]),
        ),
        lines(
            View(6, "Forecast: share used at the end", "Share of a limit that will be used at the end of its UTC day or "
                 "month, of one without period in 24 hours, at the pace of the window chosen above. Above 1: it runs out "
                 "before.", "percentunit", _forecasts(limit, used)),
            steps=NEAR,
        ),
        lines(
            View(6, "Time left at this pace", "Until a limit without period is reached, at the pace of the window chosen "
                 "above. Absent where nothing is used.", "s", [Query(_time_left(limit, used, pace, WHOLE), OF_TEAM)]),
        ),
    ]  # fmt: skip


def _runs() -> list[AnyPanel]:
    limit, used = _of_run("run_limit"), _of_run("run_limit_used")
    pace = _pace("run_limit_used", RUN, "team, run, limit")
    return [
        lines(
            View(12, "Drawn by run", "Rollouts drawn since the run began.", "short", [Query(usage(DRAWN, "team, run"), OF_RUN)]),
            runs=True,
        ),
        lines(
            View(12, "Saved by run", "Reference group size times closed groups, less what was drawn.", "short",
                 [Query(booked("saved_rollouts", "team, run"), OF_RUN)]),
            runs=True,
        ),
        rows(
            View(8, "Limits of runs", "Runs with limits of their own, over their whole life.", "short",
                 [Query(of_policy(limit)), Query(of_policy(used)), Query(of_policy(f"{used} / {limit}"))]),
            {"A": ("limit is", "short"), "B": ("used or held", "short"), "C": ("share", "percentunit")},
        ),
        lines(
            View(8, "Left under limits of runs (burn-down)", "Limit of the run less what is used or held of it.", "short",
                 [Query(of_policy(f"{limit} - {used}"), OF_RUN_LIMIT)]),
            runs=True,
        ),
        lines(
            View(8, "Time left of runs at this pace", "Until a run's own limit is reached, at the pace of the window chosen "
                 "above. Absent where nothing is used.", "s", [Query(of_policy(_left_s(limit, used, pace)), OF_RUN_LIMIT)]),
            runs=True,
        ),
    ]  # fmt: skip


def _grants() -> list[AnyPanel]:
    by_run = "team, run"
    return [
        lines(
            View(8, "Refused", "Rollouts asked for that a limit did not let through, since the run began. Its groups stop "
                 "with what they have: reason `budget_exhausted`.", "short", [Query(usage("refused", by_run), OF_RUN)]),
            runs=True,
        ),
        lines(
            View(8, "Returned", "Granted and not drawn. Released: given back when the group closed. Expired: taken back when "
                 "its lease ended, as after a worker died.", "short",
                 [Query(usage("released", by_run), f"{OF_RUN}: released"), Query(usage("expired", by_run), f"{OF_RUN}: expired")]),
            runs=True,
        ),
        lines(
            View(8, "Beyond grants, and would-be refusals", "Overage: drawn without a grant, and booked all the same. Shadow: "
                 "granted, though a limit in shadow mode would have refused it.", "short",
                 [Query(usage("overage", by_run), f"{OF_RUN}: overage"),
                  Query(usage("shadow_refused", by_run), f"{OF_RUN}: shadow")]),
            runs=True,
        ),
    ]  # fmt: skip


def _policies() -> list[AnyPanel]:
    plain: Steps = ((None, "blue"),)
    return [
        bars(
            View(8, "Rollouts by policy", "Rollouts drawn for each policy.", "short", [Query(usage(DRAWN, "policy"), "{{policy}}")]),
            steps=plain,
        ),
        bars(
            View(8, "Tokens by policy", "Tokens that trainers reported when they closed groups.", "short",
                 [Query(booked("tokens", "policy"), "{{policy}}")]),
            steps=plain,
        ),
        bars(
            View(8, "GPU time by policy", "GPU-seconds that trainers reported when they closed groups.", "s",
                 [Query(booked("gpu_seconds", "policy"), "{{policy}}")]),
            steps=plain,
        ),
    ]  # fmt: skip


def _of_team(gauge: str, labels: str = "") -> str:
    return f'max by (team, limit) ({PREFIX}{gauge}{{team=~"$team"{labels}}})'


def _of_run(gauge: str) -> str:
    return f"max by (team, run, limit) ({PREFIX}{gauge}{{{RUN}}})"


def _pace(gauge: str, labels: str, by: str, more: str = "") -> str:
    """Return how fast a limit is used up, in its unit per second; 0 where it is not, or where a period began anew."""
    return f"clamp_min(max by ({by}) (deriv({PREFIX}{gauge}{{{labels}{more}}}[$window])), 0)"


def _left_s(limit: str, used: str, pace: str) -> str:
    return f"clamp_min({limit} - {used}, 0) / ({pace} > 0)"


def _time_left(limit: str, used: str, pace: str, which: str) -> str:
    limit, used, pace = (part.replace('team=~"$team"', f'team=~"$team",{which}') for part in (limit, used, pace))
    return _left_s(limit, used, pace)


def _forecasts(limit: str, used: str) -> list[Query]:
    found = []
    for which, left_s in (
        ('limit=~".*_per_day"', DAY_LEFT_S),
        ('limit=~".*_per_month"', MONTH_LEFT_S),
        (WHOLE, "86400"),
    ):
        pace = _pace("limit_used", 'team=~"$team"', "team, limit", f",{which}")
        had, of = (part.replace('team=~"$team"', f'team=~"$team",{which}') for part in (used, limit))
        found.append(Query(f"({had} + {pace} * {left_s}) / {of}", OF_TEAM))
    return found
