"""`rollout-budget top`: budgets and runs as they move, like top."""

from __future__ import annotations

import os

from rollout_budget.cli.connection import ADMIN_KEY, TEAM_KEY, address, key, misuse
from rollout_budget.cli.parsing import Commands, Options, interval
from rollout_budget.errors import InvalidInput

SORT_NAMES = ("rate", "used", "held", "refused", "saved", "name")
"""Those of `live.screen`, which is loaded when it is needed."""
EVERY_S = 2.0


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.command(
        "top",
        "Watch budgets and runs in the terminal, like top. With an admin's key all teams, with a team's key that team.\n\n"
        "LEFT is what is available under all limits, /S rollouts a second, GROUP the mean size of closed groups, EXTRA\n"
        "the share of grants after first waves, SAVED what fixed groups of the reference size would have drawn more.\n"
        f"Without --key-file the key is that of ${ADMIN_KEY}, else of ${TEAM_KEY}.",
        "  rollout-budget top --key-file .rollout-budget/allocator/admin.key\n"
        "  rollout-budget top --once --sort used\n"
        "  rollout-budget top --json --interval 10s | jq -c '[.at, .totals.rollouts_per_s]'",
        _top,
        key=TEAM_KEY,
        output="print each look as a line of JSON, with --once as one object",
    )
    parser.add_argument(
        "--interval", type=interval, default=EVERY_S, metavar="TIME", help=f"pause between looks (default {EVERY_S:g}s)"
    )
    parser.add_argument("--sort", choices=SORT_NAMES, default="rate", help="order of teams and runs (default: rate)")
    parser.add_argument("--once", action="store_true", help="look once, print all rows, end")


def _top(options: Options) -> None:
    from rollout_budget.cli.live import top  # noqa: PLC0415 - terminals as Unix has them
    from rollout_budget.cli.live.sampling import Sampler  # noqa: PLC0415 - only here
    from rollout_budget.cli.live.terminal import is_terminal  # noqa: PLC0415 - as above

    if options.key_file is None and os.environ.get(ADMIN_KEY):
        options.key_variable = ADMIN_KEY
    try:
        sampler = Sampler(address(options), key(options))
    except InvalidInput as error:
        raise misuse(error, options) from None
    with sampler:
        if options.once:
            top.once(sampler, options.sort, as_json=options.json)
        else:
            top.run(sampler, options.sort, options.interval, as_json=options.json, live=is_terminal())
