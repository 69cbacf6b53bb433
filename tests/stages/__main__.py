"""`python -m tests.stages`: see `--help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.stages.cases import Case, everything, named
from tests.stages.checks import violations
from tests.stages.director import Director, Outcome
from tests.stages.plant import Plant, planted


@dataclass(slots=True)
class Tally:
    """What was played: cases, faults by target and kind, what was wrong."""

    cases: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Player:
    """Plays cases on a plant, one after another."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._number = 0
        self._reference: Outcome | None = None

    async def play(self, case: Case) -> tuple[Outcome, list[str]]:
        """Play a case; return what it left and what is wrong with it.

        A case that meets the learner alone is compared with an undisturbed run, which is made when first needed.
        """
        reference = await self.undisturbed() if case.is_exact else None
        outcome = await self._direct(case, exact=case.is_exact)
        return outcome, await asyncio.to_thread(violations, case, outcome, reference)

    async def undisturbed(self) -> Outcome:
        """Return a run in which nothing happened."""
        if self._reference is None:
            self._reference = await self._direct(Case(()), exact=True)
        return self._reference

    async def _direct(self, case: Case, *, exact: bool) -> Outcome:
        self._number += 1
        return await Director(self._plant, case, f"run-{self._number}", exact=exact).play()


def main(arguments: Sequence[str] | None = None) -> int:
    """Play cases; return the exit status: 1 where something is wrong."""
    options = _parser().parse_args(arguments)
    cases = everything(options.seed) if options.cases is None else named(options.cases.split(","))
    if options.list:
        sys.stdout.write("".join(f"{case}\n" for case in cases))
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="rb-stages-"))
    folder.mkdir(parents=True, exist_ok=True)
    until = None if options.minutes is None else time.monotonic() + options.minutes * 60
    tally = asyncio.run(play(cases, folder.resolve(), until))
    sys.stdout.write(json.dumps({"cases": tally.cases, "faults": tally.faults, "wrong": tally.wrong}, indent=1) + "\n")
    return 1 if tally.wrong else 0


async def play(cases: Sequence[Case], folder: Path, until: float | None = None) -> Tally:
    """Play cases until they are through or the time is over, and say how each went."""
    tally = Tally()
    async with planted(folder) as plant:
        player = Player(plant)
        for case in cases:
            if until is not None and time.monotonic() > until:
                break
            try:
                outcome, wrong = await player.play(case)
            except TimeoutError:
                wrong, seconds = ["G22: it did not end in time"], float("nan")
            else:
                seconds = outcome.seconds
            tally.cases += 1
            tally.faults.update(f"{strike.fault} {strike.target}" for strike in case.strikes)
            tally.wrong += [f"{case}: {what}" for what in wrong]
            _say(f"  stages: {case}: {seconds:.0f} s{''.join(f'; {what}' for what in wrong)}")
    return tally


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.stages",
        description="Train in real processes, and kill, stop or slow one of them at a stage of a step.",
    )
    parser.add_argument(
        "--cases",
        help="names joined by commas; all: everything at step 2; short: what the test suite plays; together; ahead",
    )
    parser.add_argument("--seed", type=int, default=0, help="without --cases: everything, shuffled, at various steps")
    parser.add_argument("--minutes", type=float, help="begin no case after that")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--folder", type=Path, help="keep all files there (default: a new folder)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
