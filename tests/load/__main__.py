"""`python -m tests.load neighbour | overload | stall`: put a real allocator process under load and print figures."""

# ruff: noqa: T201  a command prints

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.load.report import good_per_s, quantile, summary
from tests.load.scenarios import Target, allocator, capacity, large_decision, neighbour, overload
from tests.load.schedule import poisson
from tests.load.wire import Shot

AFTER_S = 15.0
"""How long an overload is followed: recovery is promised within 10 s."""
TEAMS = ("quiet", "loud")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one scenario; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        asyncio.run(_run(options, dict(options.set)))
    except RuntimeError as error:  # the allocator did not start, and has said why
        print(f"tests.load: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(options: argparse.Namespace, settings: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="rb-load-") as folder:
        async with allocator(Path(folder), TEAMS, **settings) as target:
            await SCENARIOS[options.scenario](target, options)


async def _neighbour(target: Target, options: argparse.Namespace) -> None:
    peak = await capacity(target)
    per_s = options.rate or peak / 12
    print(f"peak {peak:.0f} opens/s; the quiet team sends {per_s:.1f} opens/s")
    times = (0.0, 1.0, 10.0, 30.0)
    found = []
    for factor, results in zip(times, await neighbour(target, per_s, options.seconds, times), strict=True):
        by_team = summary(results, options.seconds)
        found.append(by_team["quiet"].p99_s)
        for team, figures in by_team.items():
            print(f"neighbour x{factor:g}: {team}: {figures}")
    print(f"p99 of the quiet team, neighbour at x10 against x1: {found[2] / found[1] - 1.0:+.0%}")


async def _overload(target: Target, options: argparse.Namespace) -> None:
    peak = options.rate or await capacity(target)
    results = await overload(target, peak, options.seconds, AFTER_S)
    flood = [result for result in results if result.at_s < options.seconds]
    calm = [result for result in results if result.at_s >= options.seconds]
    for team, figures in summary(flood, options.seconds).items():
        print(f"three times the peak: {team}: {figures}")
    goodput = good_per_s(results, 1.0, options.seconds)
    print(f"peak {peak:.0f}/s, goodput under three times as much {goodput:.0f}/s: {goodput / peak:.0%}")
    for second in range(int(AFTER_S)):
        one = [result for result in calm if second <= result.at_s - options.seconds < second + 1]
        good = [result.latency_s for result in one if result.status == 200]
        print(f"{second + 1:3d} s after: {len(good)} of {len(one)} good, p99 {1e3 * quantile(good, 0.99):.0f} ms")


async def _stall(target: Target, options: argparse.Namespace) -> None:
    body = large_decision(4_096, 16)
    rate = options.rate or 10.0
    for large_per_s in (0.0, 1.0):
        beside = [
            Shot(at, "large /decide", "POST", "/v1/decide", body, target.headers("loud"))
            for at in (poisson(large_per_s, options.seconds, 3) if large_per_s else [])
        ]
        small = target.opens("quiet", poisson(rate, options.seconds, 4))
        alive = [Shot(at, "/livez", "GET", "/livez") for at in poisson(50.0, options.seconds, 5)]
        print(f"with {large_per_s:g} large decisions a second:")
        for who, figures in summary(await target.fire([*small, *alive, *beside]), options.seconds).items():
            print(f"  {who}: {figures}")


SCENARIOS = {"neighbour": _neighbour, "overload": _overload, "stall": _stall}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.load",
        description="Open-loop load on an allocator process of its own (SQLite unless --set database_url=...): latency "
        "is counted from the scheduled moment of each request. Client and service share this machine.",
        epilog="example: python -m tests.load overload --seconds 60",
    )
    parser.add_argument("scenario", choices=SCENARIOS, help="a loud neighbour; three times the peak; large decisions")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each round (default: 20)")
    parser.add_argument("--rate", type=float, help="requests per second of the quiet team, or the peak; else measured")
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the allocator; may be repeated",
    )
    return parser


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no value; write it like concurrency=8")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
