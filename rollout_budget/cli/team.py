"""Commands with a team's own key: what is left, whether the key works, what was changed."""

from __future__ import annotations

import sys
import time

from rollout_budget.cli import show
from rollout_budget.cli.changes import add_options, print_changes
from rollout_budget.cli.connection import TEAM_KEY, address, team
from rollout_budget.cli.parsing import REFUSED_STATUS, Commands, Options, positive, seconds
from rollout_budget.errors import Unavailable
from rollout_budget.wire import BudgetView

ASK_AGAIN_S = 0.5
"""Between two questions to a service that is not there yet; each tries for a moment by itself."""


def add(commands: Commands) -> None:
    """Add the commands."""
    commands.command(
        "budget",
        "Show your team's limits, what it has used, and what is left.",
        "  rollout-budget budget\n  rollout-budget budget --json | jq .available",
        _budget,
        key=TEAM_KEY,
    )
    status = commands.command(
        "status",
        "Say in one line whether service and key work, and what is left. The exit code alone tells a script.",
        "  rollout-budget status --require 10000 && python train.py\n"
        "  rollout-budget status --wait 2m            # for a service that is starting\n"
        "  rollout-budget status --key-file .rollout-budget/allocator/team.key",
        _status,
        key=TEAM_KEY,
    )
    status.add_argument(
        "--require", type=positive, metavar="N", help="end with 1 unless N rollouts are left, or no limit"
    )
    status.add_argument(
        "--wait", type=seconds, default=0.0, metavar="TIME", help="ask again for so long while nothing answers"
    )
    changes = commands.command(
        "changes",
        "Show who changed your team's limits, runs and keys, and when. Oldest first.",
        "  rollout-budget changes\n  rollout-budget changes --subject budget:vision --json",
        _changes,
        key=TEAM_KEY,
    )
    add_options(changes)


def _budget(options: Options) -> None:
    with team(options) as client:
        view = client.budget()
    show.one(options, view)


def _status(options: Options) -> None:
    view = _waited(options)
    if options.json:
        sys.stdout.write(view.model_dump_json(indent=2) + "\n")
        sys.exit(REFUSED_STATUS if _short(options, view) else 0)
    left = "no limit" if view.available is None else f"{show.text(view.available)} rollouts left"
    used, held = show.text(view.usage.committed + view.usage.overage), show.text(view.usage.reserved)
    near = "".join(
        f"; near or past a limit: {one.name} {show.text(one.used)} of {show.text(one.limit)}" for one in view.warnings
    )
    shadow = " (shadow mode)" if view.limits.mode == "shadow" else ""
    word = "short" if _short(options, view) else "ok"
    sys.stdout.write(
        f"{word}: team {view.team} at {address(options)}: {left}{shadow}, {used} used, {held} held{near}\n"
    )
    if _short(options, view):
        sys.exit(REFUSED_STATUS)


def _waited(options: Options) -> BudgetView:
    """Return the budget once the service answers."""
    until = time.monotonic() + options.wait
    with team(options) as client:
        while True:
            try:
                return client.budget()
            except Unavailable:
                if time.monotonic() >= until:
                    raise
            time.sleep(ASK_AGAIN_S)


def _short(options: Options, view: BudgetView) -> bool:
    return options.require is not None and view.available is not None and view.available < options.require


def _changes(options: Options) -> None:
    with team(options) as client:
        print_changes(options, lambda after, limit: client.changes(subject=options.subject, after=after, limit=limit))
