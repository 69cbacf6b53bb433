"""`rollout-budget usage`: who drew how much, when, for which policy; for people, as JSON, or as CSV for a spreadsheet.

The same below `admin`, of any team or of all.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import get_args

from rollout_budget.cli import show
from rollout_budget.cli.connection import ADMIN_KEY, TEAM_KEY, admin, team
from rollout_budget.cli.parsing import Commands, Options, Usage
from rollout_budget.wire import Dimension, RolloutCounts, UsageAnswer, UsageQuery, UsageRow

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
SHOWN = ("used", "extra", "returned", "refused", "saved", "tokens_per_rollout", "gpu_seconds_per_rollout")
"""Figures of a row that fit on a terminal; JSON and CSV hold all of them."""
_COLUMNS = """

USED rollouts were drawn, EXTRA of those granted came after first waves, RETURNED were granted and not drawn,
REFUSED were asked for and not granted, SAVED is what fixed groups of the reference size would have drawn more."""
Ask = Callable[[UsageQuery], UsageAnswer]


def add(commands: Commands) -> None:
    """Add the command of a team."""
    parser = commands.command(
        "usage",
        "Show what your team has drawn, by run, policy and day." + _COLUMNS,
        "  rollout-budget usage\n  rollout-budget usage --by run,day --since 2026-11-01\n"
        "  rollout-budget usage --by run,policy,day --csv > usage.csv",
        _usage,
        key=TEAM_KEY,
    )
    _add_options(parser, "run")


def add_for_admins(under: Commands) -> None:
    """Add the command of whoever runs the allocator."""
    parser = under.command(
        "usage",
        "Show what teams have drawn, by team, run, policy and day." + _COLUMNS,
        "  rollout-budget admin usage\n  rollout-budget admin usage --team vision --by run,day --since 2026-11-01\n"
        "  rollout-budget admin usage --by team,day --csv > usage.csv",
        _usage_of_any,
        key=ADMIN_KEY,
    )
    parser.add_argument("--team", metavar="ID", help="this team alone (default: all)")
    _add_options(parser, "team")


def _add_options(parser: argparse.ArgumentParser, by: Dimension) -> None:
    parser.add_argument(
        "--by", type=_dimensions, default=(by,), metavar="D,D", help=f"some of team, run, policy, day (default: {by})"
    )
    parser.add_argument("--run", dest="run_id", metavar="ID", help="this run alone")
    parser.add_argument("--policy", metavar="ID", help="this policy alone")
    parser.add_argument("--since", type=_day, metavar="DAY", help="first UTC day, like 2026-11-01")
    parser.add_argument("--until", type=_day, metavar="DAY", help="last UTC day; it counts too")
    parser.add_argument("--csv", action="store_true", help="print all figures as CSV")


def _usage(options: Options) -> None:
    first = _first(options)
    with team(options) as client:
        rows = list(_rows(first, lambda query: client.usage(options.by, query)))
    _print(options, rows)


def _usage_of_any(options: Options) -> None:
    first = _first(options)
    with admin(options) as client:
        rows = list(_rows(first, lambda query: client.show_usage(options.team, options.by, query)))
    _print(options, rows)


def _first(options: Options) -> UsageQuery:
    if options.csv and options.json:
        raise Usage("choose one of --csv and --json")
    if options.since and options.until and options.since > options.until:
        raise Usage(f"--since {options.since} is later than --until {options.until}, so no day is left")
    return UsageQuery(run=options.run_id, policy=options.policy, since=options.since, until=options.until, limit=10_000)


def _rows(query: UsageQuery, ask: Ask) -> Iterator[UsageRow]:
    after: str | None = None
    while True:
        answer = ask(query.model_copy(update={"after": after}))
        yield from answer.rows
        after = answer.next
        if after is None:
            return


def _print(options: Options, rows: Sequence[UsageRow]) -> None:
    if options.csv:
        _write_csv(options.by, rows)
        return
    shown = (*SHOWN, "shadow_refused") if any(row.counts.shadow_refused for row in rows) else SHOWN
    figures = [[getattr(row, one) for one in options.by] + [_figure(row, one) for one in shown] for row in rows]
    header = [name.upper().replace("_PER_ROLLOUT", "/R") for name in shown]
    show.answer(options, UsageAnswer(rows=list(rows)), figures, [*(one.upper() for one in options.by), *header])


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
