"""What dashboards are made of: panels, variables and links, on Grafana's own types (`grafana_foundation_sdk`).

Owns how things look; what is asked of Prometheus is the dashboards' own (`budget`, `decisions`, `prior`, `service`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueGraphMode,
    FieldTextAlignment,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableHide,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "rollout-budget"
"""Every dashboard has it; the links on top of each lead to all that do."""
RUN = 'team=~"$team",run=~"$run"'
"""Series of the runs chosen."""
OF_POLICY = f'rollout_budget_run_info{{{RUN},policy=~"$policy"}}'
PREFIX = "rollout_budget_"
WINDOWS = "1m,5m,15m,1h,6h,1d"
GREEN, YELLOW, RED = "green", "#EAB839", "red"
LINE, TILE = 8, 4
"""Heights of a chart and of a single figure, in rows of Grafana's grid, which is 24 columns wide."""
OF_RUN = "{{team}} / {{run}}"
OF_TEAM = "{{team}}: {{limit}}"
OF_RUN_LIMIT = "{{team}} / {{run}}: {{limit}}"

Steps = Sequence[tuple[float | None, str]]
AnyPanel = stat.Panel | timeseries.Panel | table.Panel | bargauge.Panel
P = TypeVar("P", stat.Panel, timeseries.Panel, table.Panel, bargauge.Panel)


@dataclass(frozen=True, slots=True)
class Query:
    """An expression in PromQL with Grafana's variables, and the name of its series in the legend."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What every panel has: how wide of 24 columns, what it is called, what it says, its unit, what it asks."""

    width: int
    title: str
    says: str
    unit: str
    queries: Sequence[Query]


def of_policy(expr: str) -> str:
    """Keep the series, by team and run, of runs that train one of the policies chosen."""
    return f"({expr}) and on (team, run) {OF_POLICY}"


def usage(kinds: str, by: str = "") -> str:
    """Return the rollouts of these kinds that the ledger has booked; all processes show the same, so the maximum."""
    labels = f'{RUN},policy=~"$policy",kind=~"{kinds}"'
    return _summed(f"max by (team, run, policy, kind) ({PREFIX}usage_rollouts{{{labels}}})", by)


def booked(name: str, by: str = "") -> str:
    """Return another figure of the ledger's usage: `saved_rollouts`, `groups_closed`, `tokens`, `gpu_seconds`."""
    return _summed(f'max by (team, run, policy) ({PREFIX}usage_{name}{{{RUN},policy=~"$policy"}})', by)


def per_run(counter: str, labels: str = "") -> str:
    """Return the rate of a counter over the window, by team and run, added over processes."""
    return f"sum by (team, run) (rate({PREFIX}{counter}{{{RUN}{labels}}}[$window]))"


def learned(gauge: str) -> str:
    """Return what runs have learned, by team and run: all processes show the same, some read it a moment later."""
    return of_policy(f"avg by (team, run) ({PREFIX}{gauge}{{{RUN}}})")


def quantile(share: float, histogram: str, labels: str, by: str) -> str:
    """Return a quantile of a histogram of seconds over the window; nothing where nothing happened, which is no number."""
    le = "le" if not by else f"le, {by}"
    rates = f"sum by ({le}) (rate({PREFIX}{histogram}_bucket{{{labels}}}[$window]))"
    return f"histogram_quantile({share}, {rates}) >= 0"


def figure(view: View, *, steps: Steps = ((None, GREEN),), decimals: int | None = None) -> stat.Panel:
    """Return one figure per series, with a small curve behind it."""
    panel = _common(stat.Panel(), view).height(TILE).graph_mode(BigValueGraphMode.AREA).thresholds(_steps(steps))
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    return panel if decimals is None else panel.decimals(decimals)


def lines(
    view: View, *, stacked: bool = False, most: float | None = None, runs: bool = False, steps: Steps | None = None
) -> timeseries.Panel:
    """Return curves over time; `runs` says that series have the labels of a run, which lead to its decisions."""
    panel = _common(timeseries.Panel(), view).height(LINE).fill_opacity(25 if stacked else 5).span_nulls(True)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.TABLE)
        .placement(LegendPlacement.BOTTOM)
        .calcs(["lastNotNull", "max"])
    )
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if most is not None:
        panel.min(0).max(most)
    if steps is not None:
        panel.thresholds(_steps(steps))
    return panel.data_links([run_link()]) if runs else panel


def bars(view: View, *, steps: Steps, most: float | None = None) -> bargauge.Panel:
    """Return one horizontal bar per series, as it stands now."""
    panel = _common(bargauge.Panel(), view).height(LINE).orientation(VizOrientation.HORIZONTAL)
    panel.display_mode(BarGaugeDisplayMode.BASIC).thresholds(_steps(steps)).min(0)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    return panel if most is None else panel.max(most)


def rows(view: View, columns: Mapping[str, tuple[str, str]], hidden: Sequence[str] = ("Time",)) -> table.Panel:
    """Return a table: one column per query, as `columns` names it by its letter, with a unit of its own."""
    panel = _common(table.Panel(), view, instant=True).height(LINE).align(FieldTextAlignment.AUTO)
    named = {f"Value #{letter}": name for letter, (name, _) in columns.items()}
    panel.transformations(
        [
            DataTransformerConfig(id_val="merge", options={}),
            DataTransformerConfig(
                id_val="organize",
                options={"excludeByName": dict.fromkeys(hidden, True), "renameByName": named, "indexByName": {}},
            ),
        ]
    )
    for name, unit in columns.values():
        panel.override_by_name(name, [DynamicConfigValue(id_val="unit", value=unit)])
    return panel


def run_link() -> dashboard.DashboardLink:
    """Return the link from a series of a run to the decisions of that run."""
    url = (
        "/d/rollout-budget-decisions?${__url_time_range}&var-team=${__field.labels.team}&var-run=${__field.labels.run}"
    )
    return dashboard.DashboardLink("Decisions of ${__field.labels.run}").url(url)


def board(
    name: str, says: str, sections: Sequence[tuple[str, Sequence[AnyPanel]]], *, window: str, by_job: bool = False
) -> dashboard.Dashboard:
    """Return a dashboard of sections of panels; `window` is the time that rates are taken over until it is changed."""
    made = (
        dashboard.Dashboard(f"Rollout budget: {name}")
        .uid(f"{TAG}-{name.lower()}")
        .description(" ".join(says.split()))
        .tags([TAG])
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(_links())
        .variables(_variables(window, by_job=by_job))
    )
    number = 0
    for title, panels in sections:
        number += 1
        made.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            made.with_panel(panel.id(number))
    return made


def _variables(window: str, *, by_job: bool) -> list[Builder[VariableModel]]:
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    source.current(VariableOption(text="Prometheus", value="rollout-budget-prometheus"))
    info = f"{PREFIX}run_info"
    over = dashboard.IntervalVariable("window").label("Rates over").values(WINDOWS)
    over.current(VariableOption(text=window, value=window))
    return [
        source,
        _choice("team", "Team", f"label_values({info}, team)"),
        _choice("run", "Run", f'label_values({info}{{team=~"$team"}}, run)', hidden=by_job),
        _choice("policy", "Policy", f"label_values({info}{{{RUN}}}, policy)", hidden=by_job),
        *([_choice("job", "Service", f"label_values({PREFIX}http_requests_total, job)")] if by_job else []),
        over,
    ]


def _choice(name: str, label: str, query: str, *, hidden: bool = False) -> dashboard.QueryVariable:
    """Return a variable that lists the values of a label; all of them until one is chosen."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query({"query": query, "refId": name})
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(text=["All"], value=["$__all"]))
        .hide(VariableHide.HIDE_VARIABLE if hidden else VariableHide.DONT_HIDE)
    )


def _links() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("Rollout budget")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )


def _common(panel: P, view: View, *, instant: bool = False) -> P:
    panel.title(view.title).description(view.says).unit(view.unit).datasource(SOURCE).span(view.width)
    for place, query in enumerate(view.queries):
        target = prometheus.Dataquery().expr(query.expr).ref_id("ABCDEFGH"[place]).datasource(SOURCE)
        target.legend_format(query.legend or "__auto")
        panel.with_target(target.instant().format(PromQueryFormat.TABLE) if instant else target.range())
    return panel


def _steps(steps: Steps) -> dashboard.ThresholdsConfig:
    found = [Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


def _summed(expr: str, by: str) -> str:
    return f"sum by ({by}) ({expr})" if by else f"sum({expr})"
