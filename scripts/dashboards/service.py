"""The *Service* dashboard: rates, errors, latencies, saturation, waits of the ledger, invariant violations."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from scripts.dashboards.parts import (
    GREEN,
    PREFIX,
    RED,
    YELLOW,
    AnyPanel,
    Query,
    Steps,
    View,
    board,
    figure,
    lines,
    quantile,
)

SAYS = """How both services do: each is asked how often, how fast it answers, how full it is, and whether the books are right.
Probes and scrapes are left out."""
CALLS = 'job=~"$job",route!~"/livez|/readyz|/healthz|/metrics"'
JOB = 'job=~"$job"'
NONE: Steps = ((None, GREEN), (1.0, RED))
_QUANTILES = ((0.5, "median"), (0.99, "99th percentile"))


def make() -> dashboard.Dashboard:
    """Return the dashboard."""
    sections = [
        ("At a glance", _glance()),
        ("Rates and errors", _rates()),
        ("Latencies", _latencies()),
        ("Ledger", _ledger()),
        ("Saturation", _saturation()),
    ]
    return board("Service", SAYS, sections, window="5m", by_job=True)


def _glance() -> list[AnyPanel]:
    answers = f"sum(rate({PREFIX}http_requests_total{{{CALLS}}}[$window]))"
    failed = f'sum(rate({PREFIX}http_requests_total{{{CALLS},status=~"5.."}}[$window]))'
    return [
        figure(
            View(6, "Processes up", "Processes that Prometheus reaches.", "none", [Query(f"sum by (job) (up{{{JOB}}})", "{{job}}")]),
            steps=((None, RED), (1.0, GREEN)),
        ),
        figure(
            View(6, "Invariant violations", "Counters that differ from the sum of their entries, since the start: must be 0. "
                 "Their accounts are granted nothing until an operator looked.", "none",
                 [Query(f"sum({PREFIX}invariant_violations_total)")]),
            steps=NONE,
        ),
        figure(
            View(6, "Errors", "Share of answers with a status of 500 or more.", "percentunit",
                 [Query(f"({failed} or 0 * {answers}) / ({answers} > 0)")]),
            steps=((None, GREEN), (0.001, YELLOW), (0.01, RED)),
        ),
        figure(
            View(6, "Age of the ledger's figures", "Since usage and budgets were read for these dashboards, which happens every "
                 "15 s.", "s", [Query(f"time() - max({PREFIX}ledger_read_timestamp_seconds)")]),
            steps=((None, GREEN), (60.0, YELLOW), (300.0, RED)),
        ),
    ]  # fmt: skip


def _rates() -> list[AnyPanel]:
    requests = f"{PREFIX}http_requests_total"
    turned = f'sum by (team, answer) (rate({PREFIX}requests_turned_away_total{{{JOB},team=~"$team"}}[$window]))'
    return [
        lines(
            View(8, "Requests a second", "By service and route.", "reqps",
                 [Query(f"sum by (job, route) (rate({requests}{{{CALLS}}}[$window]))", "{{job}} {{route}}")]),
            stacked=True,
        ),
        lines(
            View(8, "Answers that are no success", "By status: 4xx is the caller's doing, 429 its rate, 5xx ours.", "reqps",
                 [Query(f'sum by (job, status) (rate({requests}{{{CALLS},status=~"[45].."}}[$window])) '
                        f"or 0 * sum by (job) (rate({requests}{{{CALLS}}}[$window]))", "{{job}} {{status}}")]),
            stacked=True,
        ),
        lines(
            View(8, "Turned away at the edge", "Limited: a team's rate (429). Shed: too many wait (503).", "reqps",
                 [Query(f"{turned} or on () vector(0)", "{{team}} {{answer}}")]),
            stacked=True,
        ),
    ]  # fmt: skip


def _latencies() -> list[AnyPanel]:
    return [
        lines(
            View(8, "Time of an answer", "Median and 99th percentile by service.", "s",
                 [Query(quantile(q, "http_request_duration_seconds", CALLS, "job"), f"{{{{job}}}} {name}") for q, name in _QUANTILES]),
        ),
        lines(
            View(8, "Slowest routes", "99th percentile by route.", "s",
                 [Query(f"topk(8, {quantile(0.99, 'http_request_duration_seconds', CALLS, 'job, route')})", "{{job}} {{route}}")]),
        ),
        lines(
            View(8, "Time of a decision", "99th percentile of calls that decide, by call.", "s",
                 [Query(quantile(0.99, "decision_duration_seconds", "", "call"), "{{call}}")]),
        ),
    ]  # fmt: skip


def _ledger() -> list[AnyPanel]:
    return [
        lines(
            View(8, "Time of a ledger operation", "Median and 99th percentile, waits included.", "s",
                 [Query(quantile(q, "ledger_duration_seconds", "", "operation"), f"{{{{operation}}}} {name}") for q, name in _QUANTILES]),
        ),
        lines(
            View(8, "Waits of the ledger", "99th percentile of the wait for a transaction (a turn to write, a connection), for "
                 "a run's lock, for its team's.", "s", [Query(quantile(0.99, "ledger_wait_seconds", "", "lock"), "{{lock}}")]),
        ),
        lines(
            View(8, "Repeats", "Groups a second that were answered from what was stored: retries of clients.", "cps",
                 [Query(f"sum(rate({PREFIX}idempotent_replays_total[$window]))", "groups")]),
        ),
    ]  # fmt: skip


def _saturation() -> list[AnyPanel]:
    files = f"process_open_fds{{{JOB}}} / process_max_fds{{{JOB}}}"
    return [
        lines(
            View(8, "Work admitted", "Units of work under way, of those admitted at once, by process. At 1 requests wait.",
                 "percentunit", [Query(f"{PREFIX}admitted_units{{{JOB}}} / {PREFIX}admission_bound_units{{{JOB}}}", "{{job}} {{instance}}")]),
            most=1.0, steps=((None, GREEN), (0.8, YELLOW), (1.0, RED)),
        ),
        lines(
            View(8, "Requests that wait", "In line to be admitted, of those that may wait.", "percentunit",
                 [Query(f"{PREFIX}queue_requests{{{JOB}}} / {PREFIX}queue_bound_requests{{{JOB}}}", "{{job}} {{instance}}")]),
            most=1.0,
        ),
        lines(
            View(8, "Wait to be admitted", "99th percentile of requests that were admitted.", "s",
                 [Query(quantile(0.99, "queue_wait_seconds", JOB, "job"), "{{job}}")]),
        ),
        lines(
            View(8, "CPU", "Cores in use by process; a service decides on one.", "none",
                 [Query(f"rate(process_cpu_seconds_total{{{JOB}}}[$window])", "{{job}} {{instance}}")]),
        ),
        lines(
            View(8, "Memory", "Memory that each process holds (resident set).", "bytes", [Query(f"process_resident_memory_bytes{{{JOB}}}", "{{job}} {{instance}}")]),
        ),
        lines(
            View(8, "Open files", "Of those that the system allows, by process: connections are files too.", "percentunit",
                 [Query(files, "{{job}} {{instance}}")]),
            most=1.0,
        ),
    ]  # fmt: skip
