"""The *Prior* dashboard: how good priors are, what they rest on, and how the service that gives them does."""

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
    figure,
    learned,
    lines,
    quantile,
)

SAYS = """How far priors can be trusted, as each run has learned it from the first waves of its groups, and the service that
gives them. Errors of runs are on the unit scale of success rates. The service counts all teams together and names none."""


def make() -> dashboard.Dashboard:
    """Return the dashboard."""
    sections = [("Quality by run", _quality()), ("Evidence", _evidence()), ("Prior service", _service())]
    return board("Prior", SAYS, sections, window="5m")


def _quality() -> list[AnyPanel]:
    return [
        lines(
            View(12, "Squared error", "Pooled squared error of a run's priors, free of sampling noise. 1/12 before anything is "
                 "known.", "short", [Query(learned("prior_squared_error"), OF_RUN)]),
            runs=True,
        ),
        lines(
            View(12, "Explained variance", "Share of the variance of success rates that priors explain. At 0 or below, the "
                 "run's mean predicts as well, and the run drops its prior.", "percentunit",
                 [Query(learned("prior_explained_variance"), OF_RUN)]),
            runs=True,
        ),
        lines(
            View(12, "Calibration error", "Expected calibration error over ten bins: mean distance of prediction and outcome. "
                 "A few groups overstate it.", "percentunit", [Query(learned("prior_calibration_error"), OF_RUN)]),
            runs=True,
        ),
        lines(
            View(12, "Rejected priors", "Share of recent groups whose outcomes contradict their prior by V0.5's test.",
                 "percentunit", [Query(learned("prior_rejected_ratio"), OF_RUN)]),
            most=1.0, runs=True,
        ),
    ]  # fmt: skip


def _evidence() -> list[AnyPanel]:
    none_or_some = ((None, GREEN), (1.0, RED))
    return [
        lines(
            View(12, "Evidence received", "Rows a second by what became of them. Repeated: had arrived before, by its id; it "
                 "counts once.", "cps",
                 [Query(f"sum by (result) (rate({PREFIX}evidence_rows_total[$window]))", "{{result}}")]),
            stacked=True,
        ),
        figure(
            View(6, "Evidence waiting", "Rows that the allocator keeps for the prior service: it is told in the background, "
                 "and nothing is lost while it is away.", "short", [Query(f"max({PREFIX}evidence_waiting_rows)")]),
            steps=((None, GREEN), (5_000.0, YELLOW), (50_000.0, RED)),
        ),
        figure(
            View(6, "Evidence refused", "Rows that the prior service refused for good since the allocator started.", "short",
                 [Query(f"sum({PREFIX}evidence_refused_total)")]),
            steps=none_or_some,
        ),
    ]  # fmt: skip


def _service() -> list[AnyPanel]:
    values = f"{PREFIX}prior_values_total"
    given = f"sum(rate({values}[$window]))"
    found = f"{PREFIX}feature_lookups_total"
    route = 'route="/v1/values"'
    return [
        lines(
            View(8, "Values a second", "By the model that gave them.", "cps",
                 [Query(f"sum by (model) (rate({values}[$window]))", "{{model}}")]),
            stacked=True,
        ),
        lines(
            View(8, "Degraded values", "Share given without features of their text, or by a stand-in for the model.",
                 "percentunit", [Query(f'(sum(rate({values}{{degraded="true"}}[$window])) or 0 * {given}) / ({given} > 0)', "share")]),
            most=1.0, steps=((None, GREEN), (0.05, YELLOW), (0.5, RED)),
        ),
        lines(
            View(8, "Time of a values call", "Median and 99th percentile, seen by the service.", "s",
                 [Query(quantile(q, "http_request_duration_seconds", route, ""), name) for q, name in _MEDIAN_AND_P99]),
        ),
        lines(
            View(8, "Feature cache", "Look-ups of features by where they were found; nowhere: the text goes to the encoder.",
                 "percentunit", [Query(f"sum by (found) (rate({found}[$window])) / scalar(sum(rate({found}[$window])))", "{{found}}")]),
            stacked=True, most=1.0,
        ),
        lines(
            View(8, "Time of the encoder", "One call of the encoder with a batch of texts.", "s",
                 [Query(quantile(q, "encoder_seconds", "", ""), name) for q, name in _MEDIAN_AND_P99]),
        ),
        lines(
            View(8, "Encoder batches and queue", "Mean texts in one call, and texts that wait.", "short",
                 [Query(f"sum(rate({PREFIX}encoder_batch_size_sum[$window])) / "
                        f"(sum(rate({PREFIX}encoder_batch_size_count[$window])) > 0)", "texts in a batch"),
                  Query(f"sum({PREFIX}encoder_queue_depth)", "texts waiting")]),
        ),
        lines(
            View(12, "Time of a fit", "Fits of the Gaussian process, in the background; older ones answer meanwhile.", "s",
                 [Query(quantile(q, "prior_refit_seconds", "", ""), name) for q, name in _MEDIAN_AND_P99]),
        ),
        figure(
            View(12, "Encoder ready", "1 for each process whose encoder is loaded. Without it, priors come from prompts' own "
                 "past alone.", "none", [Query(f"max by (instance) ({PREFIX}encoder_ready)", "{{instance}}")]),
            steps=((None, RED), (1.0, GREEN)),
        ),
    ]  # fmt: skip


_MEDIAN_AND_P99 = ((0.5, "median"), (0.99, "99th percentile"))
