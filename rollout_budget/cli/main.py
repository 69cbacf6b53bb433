"""`rollout-budget`: puts the commands together, and turns every failure into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from rollout_budget.cli import admin, completion, decide, demo, entries, replay, runs, team, top, up, usage
from rollout_budget.cli.connection import address
from rollout_budget.cli.doctor import command as doctor
from rollout_budget.cli.parsing import REFUSED_STATUS, USAGE_STATUS, Commands, Failed, Options, Parser, Unkept, Usage
from rollout_budget.errors import NotFound, OutcomeUnknown, RolloutBudgetError, Unauthorized, Unavailable

AWAY_STATUS = 3
INTERRUPTED_STATUS = 130
"""What a shell says of a command that Ctrl-C ended."""

COMMANDS = (
    up.add,
    team.add,
    top.add,
    decide.add,
    runs.add,
    usage.add,
    entries.add,
    admin.add,
    replay.add,
    doctor.add,
    demo.add,
)
"""What adds commands at the top, in the order of `--help`."""

FAILURES = (Usage, ValidationError, RolloutBudgetError, Failed, Unkept, OSError, KeyboardInterrupt)
"""What ends a command with one line; anything else is a fault of ours and shows its traceback."""

_ABOUT = (
    """Budgets of rollouts: both services in one terminal, what teams have left, decisions, and what an admin does."""
)
_EPILOG = """\
examples:
  rollout-budget up --demo
  rollout-budget doctor
  export ROLLOUT_BUDGET_URL=https://allocator.example ROLLOUT_BUDGET_KEY="$(cat team.key)"
  rollout-budget status
  rollout-budget admin teams list --key-file admin.key

environment:
  ROLLOUT_BUDGET_URL         where the allocator is (default http://127.0.0.1:8100)
  ROLLOUT_BUDGET_KEY         a team's key
  ROLLOUT_BUDGET_ADMIN_KEY   an admin's key, for `rollout-budget admin`
A key is never an argument: every process of the machine could read it there.

exit codes:
  0  done
  1  the service refused, or its answer could not be written: the line says why
  2  the command lacks something or cannot be read; nothing was sent
  3  the service cannot be reached, or no answer came

Every command has --help with examples, and --json for programs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code, 2 as SystemExit where the arguments cannot be parsed."""
    logging.getLogger("rollout_budget").addHandler(logging.NullHandler())  # retries are not news on a terminal
    options = parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except FAILURES as error:
        return _ended(error, options)
    return 0


def parser() -> Parser:
    """Return the parser of the whole command."""
    whole = Parser(prog="rollout-budget", description=_ABOUT, epilog=_EPILOG)
    commands = Commands(whole)
    for add in COMMANDS:
        add(commands)
    completion.add(commands, whole)
    return whole


def _ended(error: BaseException, options: Options) -> int:
    """Say in one line why a command did not work out; return its exit code."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED_STATUS
    if isinstance(error, OSError):
        _drop_output()
        gone = isinstance(error, BrokenPipeError)  # the reader has gone, as with `| head`
        return 0 if gone else _fail(f"the answer could not be written: {error.strerror}", REFUSED_STATUS)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return _fail(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", USAGE_STATUS)
    if isinstance(error, RolloutBudgetError):
        return _fail(f"{error}{_advice(error, options)}", _status(error))
    if isinstance(error, Unkept):
        _drop_output()
    return _fail(str(error), USAGE_STATUS if isinstance(error, Usage) else REFUSED_STATUS)


def _drop_output() -> None:
    """Let nothing that is left over be written at the end: that would fail once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _status(error: RolloutBudgetError) -> int:
    return AWAY_STATUS if isinstance(error, (Unavailable, OutcomeUnknown)) else REFUSED_STATUS


def _advice(error: RolloutBudgetError, options: Options) -> str:
    if isinstance(error, Unauthorized):
        return f"; check the key in {options.key_file or options.key_variable} and its scope"
    if isinstance(error, NotFound):
        if "no such path" in str(error):
            return f"; is {address(options)} an allocator, without a path of its own? Set --url or ROLLOUT_BUDGET_URL"
        return "; `rollout-budget admin teams list` and `... admin keys list` show what there is"
    if isinstance(error, Unavailable):
        answered = error.__cause__ is None
        away = f"is the allocator running at {address(options)}? Set --url or ROLLOUT_BUDGET_URL"
        return "; it is there, but busy: try again in a moment" if answered else f"; {away}"
    return ""


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"rollout-budget: {' '.join(message.split())}\n")
    return status
