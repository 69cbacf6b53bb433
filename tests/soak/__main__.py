"""`python -m tests.soak`: see `--help`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.paths import ROOT
from tests.soak.contract import contract
from tests.soak.load import load
from tests.soak.processes import processes
from tests.soak.pure import machine, simulation
from tests.soak.result import Result, say, table, write
from tests.soak.stages import stages

Layer = Callable[[float, int], Result]
LAYERS: Mapping[str, tuple[float, Layer]] = {
    "simulation": (0.24, simulation),
    "machine": (0.08, machine),
    "processes": (0.29, processes),
    "contract": (0.11, contract),
    "load": (0.08, load),
    "stages": (0.20, stages),
}
"""Share of the time, and what to run."""

EPILOG = """
layers
  simulation  histories of clients, replicas and faults in virtual time, seed after seed
  machine     the ledger against a model of it, under programs that Hypothesis writes
  processes   real services on SQLite and PostgreSQL, a proxy that loses answers, SIGKILL of services and of PostgreSQL
  contract    schemathesis on both services: examples, coverage, fuzzing, stateful links
  load        open-loop load, and what was acknowledged compared with the ledger
  stages      trainings on two vLLM servers; each process of them killed, stopped or slowed at every stage of a step

examples
  python -m tests.soak                                  30 minutes of everything
  python -m tests.soak --minutes 5 --only processes     five minutes of one layer
  python -m tests.soak --seed 12345                     the seeds of an earlier soak

exit status: 0 nothing was violated; 1 something was: the table says what, with the seed or the command that shows it
again; 2 the arguments cannot be used."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the layers one after another; return the exit status."""
    options = _parser().parse_args(arguments)
    logging.getLogger("rollout_budget.client").setLevel(logging.ERROR)  # its warnings are the faults that are counted
    chosen = [name for name in LAYERS if name in options.only]
    shares = sum(LAYERS[name][0] for name in chosen)
    results: list[Result] = []
    for name in chosen:
        share, layer = LAYERS[name]
        seconds = options.minutes * 60 * share / shares
        say(f"{name}: {seconds / 60:.1f} minutes from seed {options.seed}")
        results.append(layer(seconds, options.seed))
        write(results, options.json)
    say("\n" + table(results))
    say(f"the same as JSON: {options.json}")
    return 1 if any(result.violations for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Run every harness for long, one after another, and print what was done and what was violated.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=_positive, default=30.0, help="for all layers together (default 30)")
    parser.add_argument(
        "--only", type=_layers, default=list(LAYERS), metavar="LAYER,LAYER", help=f"some of {', '.join(LAYERS)}"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=int(time.time()),
        help="where seeds begin (default: the time, so that each soak is new)",
    )
    parser.add_argument("--json", type=Path, default=ROOT / "runs" / "soak.json", help="default runs/soak.json")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _layers(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in LAYERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no layer {unknown[0]!r}; there are {', '.join(LAYERS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
