"""The comparison as a table, for the terminal and for the page: the same cells in both."""

from __future__ import annotations

import math

from rich.table import Table

from trainer.report.comparison import Comparison, Method, Spread, Trained

COLUMNS = (
    "method",
    "seeds",
    "steps",
    "rollouts",
    "mean group",
    "tokens",
    "wall-clock",
    "accuracy at start",
    "at end",
    "rollouts to reach the reference",
    "share of the reference's",
)


def cells(comparison: Comparison) -> list[list[str]]:
    """Return one row of text per method, in the order of `COLUMNS`."""
    baseline = comparison.reference.rollouts_to(comparison.target)
    return [_row(method, comparison, baseline) for method in comparison.methods]


def text_table(comparison: Comparison) -> Table:
    """Return the table for a terminal, one column per method, with what must be known below it."""
    table = Table(caption="\n".join(comparison.notes), caption_justify="left")
    (_, *figures), rows = COLUMNS, cells(comparison)
    table.add_column("")
    for name, *_ in rows:
        table.add_column(name, justify="right")
    for index, figure in enumerate(figures, start=1):
        table.add_row(figure, *(row[index] for row in rows))
    return table


def _row(method: Method, comparison: Comparison, baseline: float) -> list[str]:
    reach = method.rollouts_to(comparison.target)
    is_reference = method is comparison.reference
    return [
        f"{method.name} (reference)" if is_reference else method.name,
        str(len(method.runs)),
        _count(method.spread(lambda run: run.last.step)),
        _count(method.spread(lambda run: run.last.rollouts_total)),
        _number(method.spread(_mean_group), "{:.1f}"),
        _count(method.spread(lambda run: run.last.tokens_total)),
        _number(method.spread(lambda run: run.last.elapsed_s), "{:,.0f} s"),
        _number(method.spread(lambda run: run.start), "{:.3f}"),
        _number(method.spread(lambda run: run.end), "{:.3f}"),
        f"{reach:,.0f}" if math.isfinite(reach) else "not reached",
        f"{reach / baseline:.0%}" if math.isfinite(reach) and 0 < baseline < math.inf else "-",
    ]


def _mean_group(run: Trained) -> float:
    groups = sum(row.groups for row in run.rows)
    return sum(row.rollouts for row in run.rows) / groups if groups else math.nan


def _count(spread: Spread) -> str:
    return _number(spread, "{:,.0f}")


def _number(spread: Spread, form: str) -> str:
    if math.isnan(spread.mean):
        return "-"
    mean = form.format(spread.mean)
    return mean if spread.low == spread.high else f"{mean} [{form.format(spread.low)}, {form.format(spread.high)}]"
