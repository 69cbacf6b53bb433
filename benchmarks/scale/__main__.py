"""`python -m benchmarks.scale`: from measured service times to replicas, databases, and what breaks first.

Without options: every table of `docs/scale.md`, by simulation alone, in under three minutes on one core; the same seed
gives the same figures. `--measure` calibrates first and writes the table of service times; `--check` sets the simulation
beside a real replica. Both of these start a PostgreSQL from a wheel unless `--database-url` names a server.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scale import report, times

SCENES = ("costs", "offered", "sizing", "growth", "giant", "outage", "restart", "moving")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, simulate, print; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.measure:
            from benchmarks.scale.measure import calibrate  # noqa: PLC0415  needs a service and a database

            calibrate(options.database_url).save(options.times)
        table = times.load(options.times)
        if options.check:
            from benchmarks.scale.check import compare  # noqa: PLC0415  likewise

            report.checked(compare(table, options.database_url))
            return 0
    except (ValueError, OSError) as error:
        sys.stderr.write(f"benchmarks.scale: {error}\n")
        return 2
    began = time.perf_counter()
    _scenes(options, table)
    print(f"{time.perf_counter() - began:.0f} s")
    return 0


def _scenes(options: argparse.Namespace, table: times.Times) -> None:
    chosen: list[str] = options.scene or list(SCENES)
    if "costs" in chosen:
        report.costs(table)
    if "offered" in chosen:
        report.offered(table)
    replicas = options.replicas
    if "sizing" in chosen or (replicas is None and {"growth", "giant", "outage", "restart"} & set(chosen)):
        found = report.sizing(table)
        replicas = replicas or found
    if "growth" in chosen:
        report.growth(table, replicas)
    if "giant" in chosen:
        report.giant(table, replicas)
    if "outage" in chosen:
        report.outage(table, replicas, options.plots)
    if "restart" in chosen:
        report.restart(table, replicas)
    if "moving" in chosen:
        report.moving()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description="1,000 teams with 10,000 runs, simulated from the measured costs of single calls.",
        epilog="examples: --measure (calibrate on this machine, then simulate); --scene outage --replicas 6; --check",
    )
    parser.add_argument(
        "--times", type=Path, default=times.MEASURED, help="table of service times (default: %(default)s)"
    )
    parser.add_argument("--measure", action="store_true", help="calibrate first and write that table; takes a minute")
    parser.add_argument(
        "--check", action="store_true", help="compare with a real replica at three loads; takes two minutes"
    )
    parser.add_argument("--database-url", help="PostgreSQL server for --measure and --check, on this machine")
    parser.add_argument("--scene", action="append", choices=SCENES, help="only this; may be repeated")
    parser.add_argument("--replicas", type=int, help="replicas per region, instead of as many as are needed")
    parser.add_argument("--plots", type=Path, default=Path("docs"), help="folder of the plots (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
