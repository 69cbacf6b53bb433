"""The layers without a process: the ledger's state machine, and the simulation."""

from __future__ import annotations

import itertools
import time
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from tests.ledger.test_machine import LedgerMachine
from tests.simulation.runner import replay, run_seeds, shortest
from tests.simulation.world import Report
from tests.soak.result import Result, say

STEPS = 2000
"""Of each history."""
EXAMPLES, COMMANDS = 200, 50
"""Programs between two looks at the clock, and most commands of each."""
TELL_EVERY_S = 30.0


def machine(seconds: float, first_seed: int) -> Result:
    """Let Hypothesis run programs against the ledger and its model."""
    result = Result("machine", "commands")
    began = time.perf_counter()

    class Counted(LedgerMachine):
        """The same, counting."""

        @invariant()
        def count(self) -> None:
            result.operations += 1

    chosen = settings(
        max_examples=EXAMPLES,
        stateful_step_count=COMMANDS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    told = began
    for number in itertools.count(first_seed):
        factory: Any = seed(number)(Counted)
        try:
            run_state_machine_as_test(factory, settings=chosen)
        except Exception as error:  # noqa: BLE001  whatever it found ends the layer and is reported
            result.violations.append(f"seed {number}: {type(error).__name__}: {error}")
        result.seconds = time.perf_counter() - began
        result.seeds = f"{first_seed}..{number}"
        if result.violations or result.seconds >= seconds:
            return result
        if time.perf_counter() - told > TELL_EVERY_S:
            told = time.perf_counter()
            say(f"  machine: {result.operations:,} commands")
    return result


def simulation(seconds: float, first_seed: int) -> Result:
    """Live through seed after seed."""
    result = Result("simulation", "steps")
    began = told = time.perf_counter()

    def tell(report: Report) -> None:
        nonlocal told
        result.seeds = f"{first_seed}..{report.seed}"
        if time.perf_counter() - told > TELL_EVERY_S:
            told = time.perf_counter()
            say(f"  simulation: {report.seed - first_seed + 1} histories")

    until = began + seconds
    total = run_seeds(itertools.count(first_seed), STEPS, until=lambda: time.perf_counter() >= until, tell=tell)
    result.operations, result.faults = total.steps, total.faults
    result.notes.append(
        f"{total.histories} histories, {total.virtual_s / 3600:,.0f} h of virtual time, {total.transactions:,} transactions, "
        f"{total.training_steps:,} training steps, {total.rollouts:,} rollouts"
    )
    for report in total.failed:
        found, storm = shortest(report, STEPS)
        result.violations.append(f"{found.violations[0]} ({replay(found, storm)})")
    result.seconds = time.perf_counter() - began
    return result
