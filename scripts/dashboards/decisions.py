"""The *Decisions* dashboard: group sizes, extensions, what the prior weighs, its price and what rollouts are worth."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from scripts.dashboards.parts import (
    GREEN,
    OF_RUN,
    PREFIX,
    RED,
    YELLOW,
    AnyPanel,
    Query,
    View,
    board,
    booked,
    figure,
    learned,
    lines,
    of_policy,
    per_run,
    usage,
)

SAYS = """What the allocator decides: how many rollouts groups get, and why. Rates are over the window chosen above; the
figures on top are the ledger's, since the runs began. Price, worth and squared errors are on each run's outcome scale."""
SHARES = ((None, GREEN), (0.05, YELLOW), (0.25, RED))


def make() -> dashboard.Dashboard:
    """Return the dashboard."""
    sections = [
        ("Since the runs began", _whole()),
        ("Groups", _groups()),
        ("Prior and price", _prior()),
        ("Reasons and fallbacks", _reasons()),
    ]
    return board("Decisions", SAYS, sections, window="5m")


def _whole() -> list[AnyPanel]:
    groups, extra, granted = booked("groups_closed"), usage("extra"), usage("granted")
    return [
        figure(View(6, "Groups closed", "Groups closed with rollouts and not discarded.", "short", [Query(groups)])),
        figure(
            View(6, "Mean group size", "Rollouts drawn, of closed groups and of those discarded, by closed group.", "short",
                 [Query(f"{usage('committed|overage')} / {groups}")]),
            decimals=2,
        ),
        figure(View(6, "Granted", "Rollouts granted, drawn or not.", "short", [Query(granted)])),
        figure(
            View(6, "Share granted later", "Of all rollouts granted, those after the first wave of their group.",
                 "percentunit", [Query(f"{extra} / {granted}")]),
        ),
    ]  # fmt: skip


def _groups() -> list[AnyPanel]:
    closed = per_run("groups_closed_total")
    drawn = per_run("rollouts_total", ',kind=~"used|overage"')
    return [
        lines(
            View(12, "Mean group size by run", "Rollouts drawn by closed group.", "short",
                 [Query(of_policy(f"{drawn} / ({closed} > 0)"), OF_RUN)]),
            runs=True,
        ),
        lines(
            View(12, "Share of groups extended", "Groups that were granted more than a first wave.", "percentunit",
                 [Query(of_policy(f"{per_run('groups_extended_total')} / ({closed} > 0)"), OF_RUN)]),
            most=1.0, runs=True,
        ),
        lines(
            View(12, "Groups closed a second", "The pace of the runs.", "cps", [Query(of_policy(closed), OF_RUN)]),
            runs=True,
        ),
        lines(
            View(12, "Rollouts a second", "Granted after first waves, and drawn.", "cps",
                 [Query(of_policy(drawn), f"{OF_RUN}: drawn"),
                  Query(of_policy(per_run("rollouts_extra_total")), f"{OF_RUN}: granted later")]),
            runs=True,
        ),
    ]  # fmt: skip


def _prior() -> list[AnyPanel]:
    worth = f"{per_run('last_rollout_worth_sum')} / ({per_run('last_rollout_worth_count')} > 0)"
    weight = f"{per_run('prior_weight_sum')} / ({per_run('prior_weight_count')} > 0)"
    return [
        lines(
            View(12, "Weight on the prior", "Share of the prior in the last baseline of closed groups; their own mean has the "
                 "rest. 0 where a run's estimator has no prior.", "percentunit", [Query(of_policy(weight), OF_RUN)]),
            most=1.0, runs=True,
        ),
        lines(
            View(12, "Rejected priors", "Share of recent groups whose outcomes contradict their prior by V0.5's test; 5% to "
                 "10% is what a good prior has by chance.", "percentunit", [Query(learned("prior_rejected_ratio"), OF_RUN)]),
            most=1.0, runs=True,
        ),
        lines(
            View(8, "Price", "Squared error that a rollout must save to be drawn. Paced runs raise it when their budget is "
                 "short.", "short", [Query(learned("price"), OF_RUN)]),
            runs=True,
        ),
        lines(
            View(8, "Worth of the last rollout", "Squared error that the last rollout of a group took off its baseline. Far above the price: groups stop at a "
                "limit, not by the rule. Below it: the first wave, of one rollout at least, was more than they needed.", "short",
                 [Query(of_policy(worth), OF_RUN)]),
            runs=True,
        ),
        lines(
            View(8, "Rollouts that a prior counts for", "Pseudo-rollouts m of the prior: how far the run trusts it.", "short",
                 [Query(learned("prior_strength_rollouts"), OF_RUN)]),
            runs=True,
        ),
    ]  # fmt: skip


def _reasons() -> list[AnyPanel]:
    undecided = f"{per_run('groups_undecided_total')} / ({per_run('groups_closed_total')} > 0)"
    opened = f"sum(rate({PREFIX}groups_opened_total[$window]))"
    return [
        lines(
            View(12, "Why groups stop", "Closed groups a second by the reason of their last decision, all runs together.",
                 "cps", [Query(f"sum by (reason) (rate({PREFIX}group_stops_total[$window]))", "{{reason}}")]),
            stacked=True,
        ),
        lines(
            View(6, "Decided by the trainer (fallback)", "Share of groups closed with rollouts that this service decided "
                 "nothing about: drawn while the allocator was away and told afterwards, or by a trainer that never asks.",
                 "percentunit", [Query(of_policy(undecided), OF_RUN)]),
            most=1.0, runs=True, steps=SHARES,
        ),
        lines(
            View(6, "Opened without the prior service", "Share of groups that got the run's running mean as prior, all runs "
                 "together.", "percentunit", [Query(f"sum(rate({PREFIX}degraded_groups_total[$window])) / ({opened} > 0)", "share")]),
            most=1.0, steps=SHARES,
        ),
    ]  # fmt: skip
