"""`python -m rollout_budget.demo`: reads its arguments, runs the load, ends on Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rollout_budget.demo.load import Plan, run
from rollout_budget.errors import RolloutBudgetError, Unavailable

EPILOG = """\
example:
  python -m rollout_budget.demo --admin-key-file .rollout-budget/allocator/admin.key --seconds 120

The admin's key comes from --admin-key-file or $ROLLOUT_BUDGET_ADMIN_KEY. Outcomes are simulated; budgets, decisions and
priors are the services' own. Exit codes: 0 done, 1 the service refused, 2 no key, 3 it cannot be reached."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        key = _key(options.admin_key_file)
    except OSError as error:
        return _fail(f"--admin-key-file {options.admin_key_file}: {error.strerror}", 2)
    if not key:
        return _fail("no admin key: name its file with --admin-key-file, or set ROLLOUT_BUDGET_ADMIN_KEY", 2)
    plan = Plan(
        options.url, key, options.seconds, options.steps, pace=options.pace, seed=options.seed, stamp=options.stamp
    )
    failed: list[BaseException] = []
    try:
        asyncio.run(_until_told(plan))
    except* RolloutBudgetError as group:
        failed = list(group.exceptions)
    if failed:
        return _fail(str(failed[0]), 3 if isinstance(failed[0], Unavailable) else 1)
    return 0


async def _until_told(plan: Plan) -> None:
    task = asyncio.ensure_future(run(plan, _say))
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    try:
        tally = await task
    except asyncio.CancelledError:
        _say("stopped")
        return
    _say(f"done: {tally.steps:,} steps, {sum(tally.rollouts.values()):,} rollouts")


def _key(file: Path | None) -> str:
    return file.read_text("utf-8").strip() if file else os.environ.get("ROLLOUT_BUDGET_ADMIN_KEY", "")


def _say(line: str) -> None:
    sys.stdout.write(f"demo: {line}\n")
    sys.stdout.flush()


def _fail(line: str, status: int) -> int:
    sys.stderr.write(f"rollout_budget.demo: {line}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rollout_budget.demo",
        description="Three teams with five runs, simulated, against a real allocator: dashboards move.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default=os.environ.get("ROLLOUT_BUDGET_URL", "http://127.0.0.1:8100"))
    parser.add_argument("--admin-key-file", type=Path, metavar="FILE")
    parser.add_argument("--seconds", type=float, help="how long (default: until stopped)")
    parser.add_argument("--steps", type=int, help="steps of each run at most (default: no bound)")
    parser.add_argument("--pace", type=float, default=0.5, help="steps a second of each run at most (default 0.5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stamp", help="part of every run id (default: the time of the start)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
