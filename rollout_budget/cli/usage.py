"""`rollout-budget usage`: who drew how much, when, for which policy; for people, as JSON, or as CSV for a spreadsheet."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from typing import get_args

from rollout_budget.cli import show
from rollout_budget.cli.connection import TEAM_KEY, team
from rollout_budget.cli.parsing import Commands, Options, Usage
from rollout_budget.client import SyncAllocatorClient
from rollout_budget.wire import Dimension, RolloutCounts, UsageAnswer, UsageQuery, UsageRow

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
SHOWN = ("used", "extra", "returned", "refused", "saved", "tokens_per_rollout", "gpu_seconds_per_rollout")
"""Figures of a row that fit on a terminal; JSON and CSV hold all of them."""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.command(
        "usage",
        "Show what your team has drawn, by run, policy and day.\n\n"
        "USED rollouts were drawn, EXTRA of those granted came after first waves, RETURNED were granted and not drawn,\n"
        "REFUSED were asked for and not granted, SAVED is what fixed groups of the reference size would have drawn more.",
        "  rollout-budget usage\n  rollout-budget usage --by run,day --since 2026-11-01\n"
        "  rollout-budget usage --by run,policy,day --csv > usage.csv",
        _usage,
        key=TEAM_KEY,
    )
    parser.add_argument(
        "--by", type=_dimensions, default=("run",), metavar="D,D", help="some of team, run, policy, day (default: run)"
    )
    parser.add_argument("--run", dest="run_id", metavar="ID", help="this run alone")
    parser.add_argument("--policy", metavar="ID", help="this policy alone")
    parser.add_argument("--since", type=_day, metavar="DAY", help="first UTC day, like 2026-11-01")
    parser.add_argument("--until", type=_day, metavar="DAY", help="last UTC day; it counts too")
    parser.add_argument("--csv", action="store_true", help="print all figures as CSV")


def _usage(options: Options) -> None:
    if options.csv and options.json:
        raise Usage("choose one of --csv and --json")
    if options.since and options.until and options.since > options.until:
        raise Usage(f"--since {options.since} is later than --until {options.until}, so no day is left")
    query = UsageQuery(
        run=options.run_id, policy=options.policy, since=options.since, until=options.until, limit=10_000
    )
    with team(options) as client:
        rows = list(_rows(client, options.by, query))
    if options.csv:
        _write_csv(options.by, rows)
        return
    shown = (*SHOWN, "shadow_refused") if any(row.counts.shadow_refused for row in rows) else SHOWN
    figures = [[getattr(row, one) for one in options.by] + [_figure(row, one) for one in shown] for row in rows]
    header = [name.upper().replace("_PER_ROLLOUT", "/R") for name in shown]
    show.answer(options, UsageAnswer(rows=rows), figures, [*(one.upper() for one in options.by), *header])


def _rows(client: SyncAllocatorClient, by: Sequence[Dimension], query: UsageQuery) -> Iterator[UsageRow]:
    after: str | None = None
    while True:
        answer = client.usage(by, query.model_copy(update={"after": after}))
        yield from answer.rows
        after = answer.next
        if after is None:
            return


def _figure(row: UsageRow, name: str) -> object:
    value = getattr(row, name) if hasattr(row, name) else getattr(row.counts, name)
    return round(value, 3) if isinstance(value, float) else value


def _write_csv(by: Sequence[Dimension], rows: Sequence[UsageRow]) -> None:
    counts, derived = list(RolloutCounts.model_fields), list(UsageRow.model_computed_fields)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*by, *counts, *derived])
    for row in rows:
        dimensions = [getattr(row, one) for one in by]
        writer.writerow(
            [*dimensions, *(getattr(row.counts, one) for one in counts), *(getattr(row, one) for one in derived)]
        )


def _dimensions(text: str) -> tuple[Dimension, ...]:
    named = text.split(",")
    found = tuple(dimension for dimension in DIMENSIONS if dimension in named)
    if len(found) != len(named):
        raise argparse.ArgumentTypeError(f"{text!r}: name some of {', '.join(DIMENSIONS)}, each once, with commas")
    return found


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it like 2026-11-01") from None
