"""`scripts/compose-smoke`: builds the images, starts the stack, uses it, restarts its parts, checks, and removes it again."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from rollout_budget.errors import RolloutBudgetError
from tests.compose.smoke import checks
from tests.compose.smoke.engine import Failed, find
from tests.compose.smoke.stack import PROJECT, TAG, Stack, free_ports
from tests.compose.smoke.trainer import Tally, train

STEPS = 10
"""Steps that the allocator must have served before, between and after the restarts."""
SERVED_S = 120.0
"""Longest wait for so many steps."""
T = TypeVar("T")


class Report:
    """Prints each check with its figure and how long it took."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.count = 0

    def check(self, name: str, work: Callable[[], T], figure: Callable[[T], str] = str) -> T:
        """Do `work`, print its figure; what it raises goes on."""
        began = time.monotonic()
        result = work()
        self.count += 1
        self.say(f"ok  {name}: {figure(result)} ({time.monotonic() - began:.1f} s)")
        return result

    @staticmethod
    def say(line: str) -> None:
        """Print a line at once."""
        sys.stdout.write(f"compose-smoke: {line}\n")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; return 0 if it held, or if there is no engine."""
    options = _parser().parse_args(arguments)
    logging.getLogger("rollout_budget").addHandler(logging.NullHandler())  # the client's retries are no news here
    ports = free_ports()
    variables = {"ROLLOUT_BUDGET_TAG": TAG, **ports.variables()}
    engine = find(PROJECT, variables)
    if isinstance(engine, str):
        Report.say(f"skipped: {engine}")
        return 0
    stack = Stack(engine, ports)
    report = Report()
    report.say(f"{engine.cli}, project {PROJECT}")
    try:
        engine.down(volumes=True)  # what a run that was killed has left
        if not options.no_build:
            report.check("images built", stack.build)
        report.check("images, MB", stack.sizes, _sizes)
        _everything(stack, variables, report)
    except (Failed, RolloutBudgetError, TimeoutError) as error:
        report.say(f"FAILED: {error or 'a step was not served in time'}")
        return 1
    finally:
        if options.keep:
            report.say(f"kept: allocator {ports.url('allocator')}, Prometheus {ports.url('prometheus')}")
        else:
            engine.down(volumes=True)
    report.say(f"{report.count} checks held in {time.monotonic() - report.began:.0f} s")
    return 0


def _everything(stack: Stack, variables: dict[str, str], report: Report) -> None:
    engine, ports = stack.engine, stack.ports
    for name in stack.adopt_stand_ins():
        variables[name] = f"localhost/{PROJECT}-{name.removesuffix('_IMAGE').lower()}"
        report.say(f"    {name} is a stand-in of this machine, given its official user")
    if "grafana" not in stack.services:
        report.say("    without Grafana, whose image is not here")
    report.check("up", lambda: _up(stack), lambda seconds: f"ready after {seconds:.1f} s")
    known = checks.secrets(engine)
    report.check("hardened", lambda: checks.hardened(stack, known))
    report.check("secrets by service", lambda: checks.least_secrets(engine))
    report.check("health checks", lambda: checks.healthy(stack))
    key = report.check("team, budget and key by the command line", lambda: checks.team(engine), lambda _: checks.TEAM)
    known["team's key"] = key
    tally = report.check("training through restarts", lambda: asyncio.run(_shaken(stack, key)), _story)
    report.check("ledger", lambda: checks.ledger(ports.url("allocator"), key, tally))
    now = time.time()
    report.check("metrics", lambda: checks.metrics(ports.url("prometheus"), tally, now))
    report.check("logs, JSON without secrets", lambda: checks.logs(engine, known))
    report.check(
        "down and up again", lambda: _again(stack, known), lambda seconds: f"same secrets, ready after {seconds:.1f} s"
    )
    report.check("ledger after it", lambda: checks.ledger(ports.url("allocator"), key, tally))
    anew = time.time()
    report.check("metrics after it, all audited anew", lambda: checks.metrics(ports.url("prometheus"), tally, anew))


def _up(stack: Stack) -> float:
    began = time.monotonic()
    stack.engine.up(stack.services)
    stack.ready()
    return time.monotonic() - began


def _again(stack: Stack, known: dict[str, str]) -> float:
    """Remove the containers, keep the volumes, start anew.

    Raises:
        Failed: a secret has changed.
    """
    stack.engine.down(volumes=False)
    seconds = _up(stack)
    now = checks.secrets(stack.engine)
    changed = [name for name, secret in now.items() if known[name] != secret]
    checks.require(not changed, f"the second start changed {changed}")
    return seconds


async def _shaken(stack: Stack, key: str) -> Tally:
    """Train while the allocator and then PostgreSQL are restarted; each time the allocator must serve steps again."""
    tally, stop = Tally(), asyncio.Event()
    training = asyncio.create_task(train(stack.ports.url("allocator"), key, stop, tally))

    async def served() -> None:
        waiting = asyncio.create_task(tally.more(STEPS))
        await asyncio.wait({waiting, training}, timeout=SERVED_S, return_when=asyncio.FIRST_COMPLETED)
        if training.done():
            training.result()
        if not waiting.done():
            waiting.cancel()
            raise TimeoutError(f"the allocator served fewer than {STEPS} steps in {SERVED_S:g} s")

    try:
        await served()
        for service in ("allocator", "postgres"):
            await asyncio.to_thread(stack.engine.restart, service)
            await served()
        stop.set()
        await training
    finally:
        training.cancel()
    return tally


def _sizes(sizes: dict[str, float]) -> str:
    return ", ".join(f"{name} {size:,.0f}" for name, size in sizes.items())


def _story(tally: Tally) -> str:
    return (
        f"{tally.steps} steps, {tally.groups:,} groups, {tally.rollouts:,} rollouts;"
        f" {tally.alone} steps decided by the client while the allocator was away"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/compose-smoke", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the stack up at the end")
    parser.add_argument("--no-build", action="store_true", help="take the images of the last time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
