"""`rollout-budget demo`: three teams with five simulated runs against a real allocator, so that something moves."""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from rollout_budget.cli.connection import ADMIN_KEY, address, key
from rollout_budget.cli.events import Ended, Said, emit
from rollout_budget.cli.parsing import Commands, Options, interval, not_negative, positive
from rollout_budget.errors import RolloutBudgetError

if TYPE_CHECKING:
    from rollout_budget.demo.load import Plan
    from rollout_budget.demo.trainers import Tally

PACE = 0.5
"""Steps a second of each run: five runs of some dozens of groups, which one process of two cores carries easily."""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.command(
        "demo",
        "Run a load of three teams with five simulated runs, until Ctrl-C. Dashboards and `top` then move.\n\n"
        "It makes its teams and keys itself, which takes an admin's key. Outcomes are simulated and say nothing about the\n"
        "method; budgets, decisions and priors are the services' own.",
        "  rollout-budget demo --key-file .rollout-budget/allocator/admin.key\n"
        "  rollout-budget demo --seconds 2m --pace 2 --json",
        _demo,
        key=ADMIN_KEY,
        output="print each line as JSON, the last with what was drawn",
    )
    parser.add_argument(
        "--seconds", type=interval, metavar="TIME", help="how long, like 90 or 5m (default: until Ctrl-C)"
    )
    parser.add_argument("--steps", type=positive, metavar="N", help="steps of each run at most")
    parser.add_argument(
        "--pace", type=_pace, default=PACE, metavar="X", help="steps a second of each run (default 0.5)"
    )
    parser.add_argument("--seed", type=not_negative, default=0, metavar="N", help="of all outcomes (default 0)")
    parser.add_argument("--stamp", help="part of every run id (default: the time of the start)")


def _demo(options: Options) -> None:
    from rollout_budget.demo.load import Plan  # noqa: PLC0415 - numpy, which other commands do without

    plan = Plan(
        address(options),
        key(options),
        options.seconds,
        options.steps,
        pace=options.pace,
        seed=options.seed,
        stamp=options.stamp,
    )
    say = _say_json if options.json else _say
    try:
        tally = asyncio.run(_until_told(plan, say))
    except BaseExceptionGroup as group:
        known, others = group.split(RolloutBudgetError)
        if others is not None or known is None:
            raise
        raise _first(known) from None
    reason = "stopped" if tally is None else "done"
    if options.json:
        steps, rollouts = (None, None) if tally is None else (tally.steps, dict(tally.rollouts))
        emit(Ended(reason=reason, steps=steps, rollouts=rollouts))
    elif tally is None:
        _say(reason)
    else:
        _say(f"{reason}: {tally.steps:,} steps, {sum(tally.rollouts.values()):,} rollouts")


async def _until_told(plan: Plan, say: Callable[[str], None]) -> Tally | None:
    """Run the load to its end, or until a signal: then None."""
    from rollout_budget.demo.load import run  # noqa: PLC0415 - as above

    task = asyncio.ensure_future(run(plan, say))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _say(line: str) -> None:
    sys.stdout.write(f"demo: {line}\n")
    sys.stdout.flush()


def _say_json(line: str) -> None:
    emit(Said(line=line))


def _pace(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (0 < found < math.inf):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps a second, above 0")
    return found
