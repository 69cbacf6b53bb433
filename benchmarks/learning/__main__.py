"""`python -m benchmarks.learning tune | run | report | merge`: how fast a policy learns per rollout, by method.

Two generated tasks, each with a pool of prompts that recurs and one that never does; every method on the same rollouts,
by the trainer's own loop. `tune` chooses each method's learning rate on seeds of its own, `run` measures, `report` writes
a page, pictures and tables. All can be stopped (Ctrl-C) and started again: what is done is not done again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.learning import results, study
from benchmarks.learning.cells import TASKS
from benchmarks.learning.methods import ALL, METHODS
from benchmarks.learning.study import Study
from benchmarks.learning.tuning import NotTuned, Rates

FOLDER = Path("runs/learning")
STAGES = ("comparison", "ablations")
INTERRUPTED = 130
"""Exit status of what Ctrl-C ended, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except NotTuned as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on\n")
        return INTERRUPTED


def _tune(options: argparse.Namespace) -> int:
    cells = study.tuning(options.methods, options.tasks)
    return 0 if _study(options).run(cells) else 1


def _run(options: argparse.Namespace) -> int:
    chosen = _study(options)
    rates = Rates.from_results(chosen.results())
    cells = []
    if "comparison" in options.stages:
        cells += study.comparison(rates, options.methods, options.tasks)
    if "ablations" in options.stages:
        for task in options.ablation_tasks:
            cells += study.ablations(rates, task)
    return 0 if chosen.run(cells) else 1


def _report(options: argparse.Namespace) -> int:
    from benchmarks.learning.report import write  # noqa: PLC0415  matplotlib: --help answers without it

    write(results.current(results.read(_files(options))), options.out, document=options.document)
    return 0


def _merge(options: argparse.Namespace) -> int:
    count = results.merge([options.into, *options.files], options.into)
    sys.stdout.write(f"{count} results in {options.into}\n")
    return 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "tune": _tune,
    "run": _run,
    "report": _report,
    "merge": _merge,
}


def _files(options: argparse.Namespace) -> list[Path]:
    return [options.results, *options.also]


def _study(options: argparse.Namespace) -> Study:
    return Study(options.results, _files(options), options.cache, options.workers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning",
        description=__doc__,
        epilog="All of it: tune, then run, then report. On several machines: the same commands, then merge.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    tune = _reading(commands.add_parser("tune", help="choose learning rates, on seeds that are not measured on"))
    run = _reading(commands.add_parser("run", help="measure with the rates that were chosen"))
    for command in (tune, run):
        command.add_argument("--methods", nargs="+", choices=list(ALL), default=list(METHODS), metavar="NAME")
        command.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
        command.add_argument("--workers", type=int, default=2, help="runs at a time, a core each (default: 2)")
        command.add_argument("--cache", type=Path, default=FOLDER / "cache", help="policies and features")
    run.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="(default: both, in this order)")
    run.add_argument("--ablation-tasks", nargs="+", choices=list(TASKS), default=[study.PRIMARY_TASK])
    report = _reading(commands.add_parser("report", help="write page, pictures and tables"))
    report.add_argument("--out", type=Path, default=FOLDER / "report", help="folder (default: %(default)s)")
    report.add_argument("--document", type=Path, help="Markdown file whose marked tables are written anew")
    merge = commands.add_parser("merge", help="bring results of several machines into one file")
    merge.add_argument("files", type=Path, nargs="+", help="files to add")
    merge.add_argument("--into", type=Path, default=FOLDER / "results.jsonl", help="(default: %(default)s)")
    return parser


def _reading(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--results", type=Path, default=FOLDER / "results.jsonl", help="file (default: %(default)s)")
    command.add_argument("--also", type=Path, nargs="*", default=[], help="more files of results, to read only")
    return command


if __name__ == "__main__":
    sys.exit(main())
