"""The simulation itself, short: histories keep every guarantee, seeds are whole histories, broken rules are found."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from tests.paths import ROOT
from tests.simulation.__main__ import main
from tests.simulation.clock import Stuck, VirtualLoop, run
from tests.simulation.mutations import MUTATIONS
from tests.simulation.runner import run_seeds, shortest
from tests.simulation.world import simulate

STEPS = 300
SEEDS = 8
FOUND_WITHIN: dict[str, tuple[int, int]] = {
    "early-expiry": (6, 600),
    "over-limit": (6, 600),
    "new-id-per-attempt": (1, 100),
    "half-transactions": (10, 600),
    "forgotten-close": (3, 600),
    "answered-anew": (3, 600),
    "lopsided-counter": (2, 300),
    "no-fallback": (1, 100),
}
"""Histories, and steps of each, within which a broken rule is found."""


def test_g01_to_g11_g22_histories_keep_every_guarantee() -> None:
    """Whatever fails when: no overspend, counters as entries, nothing lost or doubled, leases kept, trainers done."""
    total = run_seeds(range(SEEDS), STEPS)
    assert [report.violations for report in total.failed] == []
    assert total.steps >= SEEDS * STEPS
    assert total.training_steps > 0
    assert len(total.faults) >= 15


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_a_seed_is_a_whole_history(hash_seed: str) -> None:
    """Another process with another order of its sets lives through the same history, to the last digit of time."""
    here = simulate(3, STEPS)
    command = [sys.executable, "-m", "tests.simulation", "--seed", "3", "--steps", str(STEPS)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"digest {here.digest}"
    assert simulate(3, STEPS) == here
    assert simulate(4, STEPS).digest != here.digest


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_broken_rule_is_found(name: str) -> None:
    """Within the stated number of histories, and not because of anything else: unbroken, none of them fails."""
    seeds, steps = FOUND_WITHIN[name]
    with MUTATIONS[name]():
        total = run_seeds(range(seeds), steps)
    assert total.failed


def test_a_failure_is_shortened_to_one_that_still_fails() -> None:
    with MUTATIONS["over-limit"]():
        report = run_seeds(range(6), 600).failed[0]
        found, storm = shortest(report, 600)
        assert storm <= report.steps + 1
        assert simulate(found.seed, storm).violations


def test_the_command_says_what_failed_and_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--mutate", "early-expiry", "--seeds", "6", "--steps", "600"]) == 1
    said = capsys.readouterr().out
    assert "VIOLATION in seed" in said
    assert "G7: the lease of" in said
    again = next(line for line in said.splitlines() if line.startswith("again: python -m tests.simulation "))
    assert main(again.split()[4:]) == 1


def test_time_passes_only_when_nobody_is_busy() -> None:
    """An hour is over at once, in order; tasks that wait for each other are found out."""
    loop = VirtualLoop()
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append(loop.time())

    async def everybody() -> None:
        await asyncio.gather(sleeper(3600.0), sleeper(1.5), sleeper(1.5), sleeper(0.0))

    run(everybody(), loop)
    assert woken == [0.0, 1.5, 1.5, 3600.0]

    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck):
        run(forever(), VirtualLoop())
