"""The log of changes on a terminal, for admins and teams alike."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from rollout_budget.cli import show
from rollout_budget.cli.parsing import Options, positive
from rollout_budget.wire import Change, ChangesAnswer
from rollout_budget.wire.access import MAX_PAGE


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose changes."""
    parser.add_argument("--subject", help="this alone: team:ID, budget:TEAM, run:ID or key:ID")
    parser.add_argument("--after", type=int, default=0, metavar="N", help="only changes with numbers above N")
    parser.add_argument("--limit", type=positive, metavar="N", help="at most N changes (default: all)")


def print_changes(options: Options, page: Callable[[int, int], ChangesAnswer]) -> None:
    """Print changes page by page asked for, as one list."""
    found: list[Change] = []
    after: int | None = options.after
    while after is not None and (options.limit is None or len(found) < options.limit):
        wanted = MAX_PAGE if options.limit is None else min(MAX_PAGE, options.limit - len(found))
        answer = page(after, wanted)
        found += answer.changes
        after = answer.next
    rows = [
        (one.change_id, one.at, one.by.key_id, one.action, one.subject, show.difference(one.before, one.after))
        for one in found
    ]
    header = ("N", "AT", "BY KEY", "ACTION", "SUBJECT", "WHAT")
    show.answer(options, ChangesAnswer(changes=found, next=after), rows, header)
