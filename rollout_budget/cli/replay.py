"""`rollout-budget replay`: what the allocator would have done with the rollouts of a finished run, from its log."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rollout_budget.cli.parsing import Commands, Options, Usage, positive
from rollout_budget.errors import InvalidInput

FORMATS = ("jsonl", "verl", "trl", "slime")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.command(
        "replay",
        "Read a trainer's rollout log and say what the allocator would have done with it. Nothing is drawn or sent.\n\n"
        "Reads TRL's tables of completions (log_completions), verl's rollout dumps (trainer.rollout_data_dir), slime's\n"
        "debug rollout data, and JSON lines of group, prompt_key, version, outcome. Says how many rollouts would have\n"
        "been saved at equal error of the baseline, how many groups had no signal, and how good a prior from each\n"
        "prompt's own past is, step by step. Groups need 3 rollouts: two are held out to measure by.",
        "  rollout-budget replay --logs runs/verl/rollouts --plot replay.png\n"
        "  rollout-budget replay --logs completions/ --outcome correct --group-size 8\n"
        "  rollout-budget replay --logs log.jsonl --json | jq .saved",
        _replay,
        key=None,
        output="print the report as JSON",
    )
    parser.add_argument("--logs", type=Path, required=True, metavar="FILE", help="a log, or a folder of logs")
    parser.add_argument("--format", choices=FORMATS, help="what wrote it (default: recognised by its fields)")
    parser.add_argument("--outcome", metavar="NAME", help="field or column that is the verifiable outcome")
    parser.add_argument(
        "--group-size", type=positive, metavar="N", help="rollouts of a group, where the log names none"
    )
    parser.add_argument("--low", type=float, metavar="X", help="lowest outcome (default: 0, or the lowest logged)")
    parser.add_argument("--high", type=float, metavar="X", help="highest outcome (default: 1, or the highest logged)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw a picture: .png, .svg or .pdf")


def _replay(options: Options) -> None:
    from rollout_budget.replay import read_logs, replay, report  # noqa: PLC0415 - numpy, which other commands do without

    try:
        groups, how = read_logs(
            options.logs, form=options.format, outcome=options.outcome, group_size=options.group_size
        )
        found = replay(groups, low=options.low, high=options.high, reading=how, progress=_progress)
        if options.plot is not None:
            report.plot(found, options.plot)
    except InvalidInput as error:
        raise Usage(str(error)) from None
    except OSError as error:
        raise Usage(f"{error.filename}: {error.strerror}") from None
    if options.json:
        sys.stdout.write(json.dumps({**asdict(found), "saved": found.saved}, indent=2) + "\n")
        return
    read = ", ".join(f"{name} {value}" for name, value in how.items())
    sys.stdout.write(f"read as: {read}\n{report.text(found)}")
    if options.plot is not None:
        sys.stdout.write(f"picture: {options.plot}\n")


def _progress(done: int, total: int) -> None:
    """Say how far it is, on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\rreplaying at {done} of {total} prices" + ("\n" if done == total else ""))
        sys.stderr.flush()
