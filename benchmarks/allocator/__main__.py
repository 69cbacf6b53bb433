"""`python -m benchmarks.allocator`: speed of the allocator against a bare FastAPI application and a bare PostgreSQL."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.allocator.against_bare import single, steps
from benchmarks.allocator.growth import growth, memory
from benchmarks.allocator.hot import hot
from benchmarks.allocator.options import HEADER, KINDS, PARTS, Figure, Options, Part
from benchmarks.scale.real import server_url

RUNNERS: Mapping[Part, Callable[[Options], list[Figure]]] = {
    "steps": steps,
    "single": single,
    "growth": growth,
    "hot": hot,
    "memory": memory,
}
DESCRIPTION = """Speed of the allocator, as ratios that hold on any machine.

parts:
  steps   observe with 512 groups of 4, all due at once: groups per second, against bare      (target: at least 0.5)
  single  open, observe, close of one group at --rate, eight to a step: latency, against bare
                                                                               (target: 2.5 at the median, 4 at p99)
  growth  the same calls with 1,000 runs, 10^6 ledger rows and 10^4 open groups, against 1, 10^3 and none
                                                                               (target: at most 1.2)
  hot     64 clients on one team's row: reserves per second, against PostgreSQL's own bare conditional UPDATE
  memory  bytes in the database per open group, and by how much the process grows

"bare" is a FastAPI application that parses the same requests and returns recorded answers of the service through the
same response models, under the same uvicorn: no key, no database, no decision. The client is open loop: a request is
sent when it is due, and its latency counts from then. Servers take turns within every repetition; each ratio is formed
within one repetition, and the spread is over the repetitions."""
EPILOG = """examples:
  python -m benchmarks.allocator                                  # everything, under ten minutes
  python -m benchmarks.allocator --part single --rate 30 --duration 10 --database sqlite
  python -m benchmarks.allocator --quick --json figures.json      # sees that it runs"""


BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
"""Lines of a document between which `--docs` writes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts asked for; print a Markdown table; return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.allocator",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="a part to run, repeatable (default: all)")
    parser.add_argument("--database", action="append", choices=KINDS, help="repeatable (default: both)")
    parser.add_argument("--duration", type=float, default=6.0, help="seconds per server and repetition (default: 6)")
    parser.add_argument("--rate", type=float, default=30.0, help="requests per second of single calls (default: 30)")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions, one per seed (default: 5)")
    parser.add_argument("--postgres", metavar="URL", help="server to create databases on (default: one from a wheel)")
    parser.add_argument("--folder", type=Path, help="directory on the disk to measure (default: the temporary one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the table here as well, between its markers")
    parser.add_argument("--quick", action="store_true", help="small sizes and two repetitions; figures mean nothing")
    chosen = parser.parse_args(arguments)
    if min(chosen.duration, chosen.rate, chosen.seeds) <= 0:
        parser.error("--duration, --rate and --seeds are more than 0")
    if chosen.docs is not None and (not chosen.docs.is_file() or _parts(chosen.docs.read_text("utf-8")) is None):
        parser.error(f"--docs {chosen.docs}: no file with the lines {BEGIN} and {END}, in this order")
    began = time.monotonic()
    figures: list[Figure] = []
    print(HEADER)
    with tempfile.TemporaryDirectory(dir=chosen.folder, ignore_cleanup_errors=True) as folder:
        options = Options(
            folder=Path(folder),
            postgres=chosen.postgres or server_url(),
            databases=tuple(chosen.database or KINDS),
            seeds=tuple(range(1, (2 if chosen.quick else chosen.seeds) + 1)),
            duration_s=1.0 if chosen.quick else chosen.duration,
            rate=chosen.rate,
            quick=chosen.quick,
        )
        for part in chosen.part or PARTS:
            for figure in RUNNERS[part](options):
                figures.append(figure)
                print(figure.line(), flush=True)
    place = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    machine = f"{place}; {time.monotonic() - began:.0f} s; load average at the end {os.getloadavg()[0]:.1f}"
    print(f"\n{machine}")
    if chosen.docs is not None:
        table = "\n".join([HEADER, *(figure.line() for figure in figures)])
        _write(chosen.docs, f"{table}\n\n{machine}")
    if chosen.json is not None:
        report = {"machine": machine, "figures": [{**dataclasses.asdict(one), "ratio": one.ratio} for one in figures]}
        chosen.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def _parts(document: str) -> tuple[str, str] | None:
    """Return what stands before and after the figures; None where there is no place for them."""
    before, begin, rest = document.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    return (before, after) if begin and end else None


def _write(file: Path, figures: str) -> None:
    parts = _parts(file.read_text("utf-8"))
    if parts is not None:
        file.write_text(f"{parts[0]}{BEGIN}\n{figures}\n{END}{parts[1]}", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
