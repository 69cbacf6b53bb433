"""`python -m benchmarks.prior.speed`: how fast the prior service is, as ratios measured side by side in one run.

Parts: `encoder` (cold prompts through the service against the bare encoder), `values` (512 known prompts with 4,000 rows
of evidence, at the service and over HTTP), `scale` (cost of a request, bulk loading and memory from 10^4 rows on). All
on one core unless `--threads` says otherwise. Wall and processor time are both printed: on a shared machine the second is
the one to compare.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.prior import speed_encoder, speed_scale, speed_values
from benchmarks.prior.speed_clock import machine

PARTS: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, None]]] = {
    "encoder": speed_encoder.run,
    "values": speed_values.run,
    "scale": speed_scale.run,
}


def main() -> None:
    """Parse the command line and run the parts asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prior.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="may be given again; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="worlds per figure")
    parser.add_argument("--repeats", type=int, default=15, help="requests per world and figure")
    parser.add_argument("--prompts", type=int, default=512, help="cold prompts")
    parser.add_argument("--rows", type=int, default=1_000_000, help="evidence rows that `scale` ends with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--database", help="PostgreSQL to use for `scale`, emptied of nothing; SQLite files by default")
    options = parser.parse_args()
    if options.threads == 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{machine()}; {options.threads} thread(s); seeds {options.seeds}", flush=True)
    for part in options.part or list(PARTS):
        print(f"\n{part}", flush=True)
        asyncio.run(PARTS[part](options))


if __name__ == "__main__":
    main()
