"""`rollout-budget entries`: the ledger's record, line by line; for people, as JSON, or as CSV, which comes page by page."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from typing import get_args

from rollout_budget.cli import show
from rollout_budget.cli.connection import TEAM_KEY, team
from rollout_budget.cli.paging import add_limit, pages
from rollout_budget.cli.parsing import Commands, Options, Usage, not_negative
from rollout_budget.wire import EntriesAnswer, EntryKind, EntryView

SHOWN = ("entry_id", "day", "kind", "run", "step", "rollouts", "tokens", "seconds", "reservation_id")
"""Fields of a line that fit on a terminal; JSON and CSV hold all of them."""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.command(
        "entries",
        "Show the ledger's record of your team. Every grant, use, return and refusal is a line, in the order of writing.\n\n"
        "A reserve was granted, a refuse was not; a commit was drawn, an overage drawn beyond what was held; release and\n"
        "expire gave back; a close ended a group; a shadow would have been refused. Lines are never changed, and old ones\n"
        "may have left for the archive: sums of all are in `rollout-budget usage`.",
        "  rollout-budget entries --kind overage\n  rollout-budget entries --run first --after 1200 --limit 50\n"
        "  rollout-budget entries --csv > entries.csv",
        _entries,
        key=TEAM_KEY,
    )
    parser.add_argument("--kind", choices=get_args(EntryKind), help="lines of this kind alone")
    parser.add_argument("--run", dest="run_id", metavar="ID", help="lines of this run alone")
    parser.add_argument(
        "--after",
        type=not_negative,
        default=0,
        metavar="N",
        help="only lines with numbers above N, such as the last seen",
    )
    add_limit(parser, "lines")
    parser.add_argument("--csv", action="store_true", help="print all fields as CSV, each page as it comes")


def _entries(options: Options) -> None:
    if options.csv and options.json:
        raise Usage("choose one of --csv and --json")
    if options.csv:
        _write_csv(options)
        return
    answers = list(_answers(options))
    found = [line for answer in answers for line in answer.entries]
    rows = [[getattr(line, name) for name in SHOWN] for line in found]
    header = ["N", *(name.upper().removesuffix("_ID") for name in SHOWN[1:])]
    show.answer(options, EntriesAnswer(entries=found, next=answers[-1].next), rows, header)


def _answers(options: Options) -> Iterator[EntriesAnswer]:
    with team(options) as client:
        yield from pages(
            options,
            lambda after, limit: client.entries(options.kind, options.run_id, after=after or 0, limit=limit),
            lambda answer: len(answer.entries),
            options.after,
        )


def _write_csv(options: Options) -> None:
    fields = list(EntryView.model_fields)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, answer in enumerate(_answers(options)):
        if number == 0:
            writer.writerow(fields)
        writer.writerows([getattr(line, name) for name in fields] for line in answer.entries)
