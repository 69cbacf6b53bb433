"""`python -m tests.simulation`: see `--help`."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from tests.simulation.mutations import MUTATIONS
from tests.simulation.runner import Total, replay, run_seeds, shortest
from tests.simulation.world import Report, simulate

TELL_EVERY_S = 5.0

EPILOG = """
what it does
  Each seed is one history: teams of trainers on the real client, allocator replicas on one database, and faults: messages
  lost, doubled, late and out of order, replicas and trainers killed in the middle of a request, the database away, limits
  lowered and raised, clocks a day off. After every transaction the books are compared with an account kept beside them.
  Time is virtual: an hour takes milliseconds, and the same seed prints the same digest on every machine.

examples
  python -m tests.simulation --seeds 50                 fifty histories, from seed 0
  python -m tests.simulation --minutes 10 --seed 1000   as many as ten minutes allow, from seed 1000
  python -m tests.simulation --seed 7 --steps 423 --trace       one history, line by line
  python -m tests.simulation --mutate early-expiry --seeds 20   break a rule on purpose, and see it found

exit status: 0 all histories kept every guarantee; 1 one did not (it prints the guarantee, the step and the command that
shows it again); 2 the arguments cannot be used."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    with _broken(options.mutate):
        if options.trace:
            return _show(simulate(options.seed, options.steps, trace=_say))
        until = time.perf_counter() + options.minutes * 60 if options.minutes else None
        seeds: Iterable[int] = itertools.count(options.seed)
        if options.minutes is None:
            seeds = range(options.seed, options.seed + options.seeds)
        teller = Teller()
        total = run_seeds(
            seeds,
            options.steps,
            until=lambda: until is not None and time.perf_counter() >= until,
            tell=teller.tell,
        )
        if options.seeds == 1 and options.minutes is None and not total.failed:
            return _show(teller.last)
        return _conclude(total, options.steps, options.mutate)


class Teller:
    """Says how far it is, every few seconds."""

    def __init__(self) -> None:
        self.last: Report | None = None
        self._total = Total()
        self._said = time.perf_counter()

    def tell(self, report: Report) -> None:
        """Hear of a history."""
        self.last = report
        self._total.add(report)
        if time.perf_counter() - self._said >= TELL_EVERY_S:
            self._said = time.perf_counter()
            done = self._total
            _say(f"{done.histories} histories, {done.steps} steps, {done.faults.total()} faults, seed {report.seed}")


def _show(report: Report | None) -> int:
    if report is None:
        return 0
    _say(
        f"seed {report.seed}: {report.steps} steps, {report.virtual_s:.0f} s of virtual time, {report.transactions} "
        f"transactions, {report.training_steps} training steps, {report.rollouts} rollouts"
    )
    _say(f"faults: {_listed(report)}")
    for violation in report.violations:
        _say(f"VIOLATION {violation}")
    _say(f"digest {report.digest}")
    return 1 if report.violations else 0


def _conclude(total: Total, steps: int, mutation: str | None) -> int:
    _say(
        f"{total.histories} histories, {total.steps} steps, {total.virtual_s / 3600:.1f} h of virtual time in "
        f"{total.wall_s:.0f} s, {total.transactions} transactions, {total.training_steps} training steps, "
        f"{total.rollouts} rollouts, {total.faults.total()} faults"
    )
    _say(f"faults: {_listed(total)}")
    if not total.failed:
        _say("violations: 0")
        return 0
    report = total.failed[0]
    _say(f"VIOLATION in seed {report.seed} at step {report.steps}: {report.violations[0]}")
    found, storm = shortest(report, steps)
    _say(f"shortest: a storm of {storm} steps: {found.violations[0]}")
    _say(f"again: {replay(found, storm, mutation)}")
    return 1


def _listed(what: Report | Total) -> str:
    return ", ".join(f"{kind} {number}" for kind, number in sorted(what.faults.items())) or "none"


def _broken(mutation: str | None) -> AbstractContextManager[object]:
    return nullcontext() if mutation is None else MUTATIONS[mutation]()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="Live through seeded histories of trainers, allocators and faults, and check every guarantee.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seeds", type=_positive, default=1, help="how many seeds (default 1)")
    parser.add_argument("--minutes", type=float, help="go on for so long instead of for so many seeds")
    parser.add_argument("--steps", type=_positive, default=2000, help="steps of each storm (default 2000)")
    parser.add_argument("--trace", action="store_true", help="print every step of the first seed")
    parser.add_argument("--mutate", choices=sorted(MUTATIONS), help="break a rule on purpose")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
