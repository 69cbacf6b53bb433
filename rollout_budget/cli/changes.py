"""The log of changes on a terminal, for admins and teams alike."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from rollout_budget.cli import show
from rollout_budget.cli.paging import add_limit, pages
from rollout_budget.cli.parsing import Options
from rollout_budget.wire import ChangesAnswer


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose changes."""
    parser.add_argument("--subject", help="this alone: team:ID, budget:TEAM, run:ID or key:ID")
    parser.add_argument("--after", type=int, default=0, metavar="N", help="only changes with numbers above N")
    add_limit(parser, "changes")


def print_changes(options: Options, page: Callable[[int, int], ChangesAnswer]) -> None:
    """Print changes page by page asked for, as one list."""
    answers = list(
        pages(options, lambda after, limit: page(after or 0, limit), lambda one: len(one.changes), options.after)
    )
    found = [change for answer in answers for change in answer.changes]
    rows = [
        (one.change_id, one.at, one.by.key_id, one.action, one.subject, show.difference(one.before, one.after))
        for one in found
    ]
    header = ("N", "AT", "BY KEY", "ACTION", "SUBJECT", "WHAT")
    show.answer(options, ChangesAnswer(changes=found, next=answers[-1].next), rows, header)
