"""The simulation of `benchmarks.scale` against what queueing theory and the real client's rules say."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale import times
from benchmarks.scale.events import Cores, Loop, Process, Slots, Wait
from benchmarks.scale.mix import Mix, make, moved, place
from benchmarks.scale.scenes import Scene
from benchmarks.scale.times import CALLS, Cost, Times
from benchmarks.scale.world import Deployment

COST = Cost(0.002, 0.002, 0.001, 0.001, 0.001, 0.0005, 2, 4)
TABLE = Times("none", "2026-01-01", {call: {1: COST, 512: COST} for call in CALLS})
SMALL = make(teams=8, runs=60, seed=0)


def scene(deployment: Deployment | None = None, mix: Mix = SMALL, seed: int = 0) -> Scene:
    return Scene(TABLE, deployment or Deployment(replicas=2), mix, seed)


def test_one_core_waits_as_an_m_d_1_queue() -> None:
    """Random arrivals and constant work: the mean wait is rho s / (2 (1 - rho)), known since Pollaczek and Khinchine."""
    loop, rng, work, load = Loop(), np.random.default_rng(0), 1.0, 0.7
    cores = Cores(loop, 1)
    waited: list[float] = []

    def one() -> Process:
        took = cores.work(work)
        waited.append(took - work)
        yield took

    for at in np.cumsum(rng.exponential(work / load, 40_000)).tolist():
        loop.spawn(one(), at)
    loop.run(math.inf)
    assert np.mean(waited) == pytest.approx(load * work / (2 * (1 - load)), rel=0.05)
    assert cores.busy_s == 40_000


def test_slots_are_given_in_order_and_those_who_gave_up_are_passed_over() -> None:
    """The first waiter has a deadline that passes; the slot goes to the second, and comes back in the end."""
    loop, slots, got = Loop(), Slots(Loop(), 1), list[tuple[str, bool]]()
    slots = Slots(loop, 1)

    def one(name: str, patience_s: float) -> Process:
        had = slots.take() or bool((yield slots.wait(patience_s)))
        got.append((name, had))
        if had:
            yield 5.0
            slots.give()

    for name, patience_s in (("holder", 1.0), ("hasty", 2.0), ("patient", 50.0)):
        loop.spawn(one(name, patience_s))
    loop.run(100.0)
    assert got == [("holder", True), ("hasty", False), ("patient", True)]
    assert slots.take()
    assert slots.held_s() == pytest.approx(10.0)


def test_a_wait_is_woken_once() -> None:
    """A second waking, or one after the deadline, says so and changes nothing."""
    loop, wait, seen = Loop(), Wait(1.0), list[object]()

    def one() -> Process:
        seen.append((yield wait))

    loop.spawn(one())
    loop.run(2.0)
    assert seen == [None]
    assert not loop.wake(wait, "late")


def test_the_same_seed_gives_the_same_history() -> None:
    """Every figure, and another seed another one."""
    runs = [scene(seed=seed).steady() for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_what_is_busy_is_what_was_offered() -> None:
    """Far below saturation the cores of the service are busy for what the calls cost, and nothing fails."""
    load = scene(Deployment(replicas=8)).steady()
    assert load.service * 8 == pytest.approx(SMALL.offered(TABLE)["service_cores"], rel=0.15)
    assert (load.busy, load.alone) == (0.0, 0.0)


@pytest.mark.parametrize("silent", [False, True])
def test_an_outage_loses_no_step(silent: bool) -> None:  # noqa: FBT001 - a case of the table
    """Steps go on without the database and are decided alone; all of them are booked once it is back."""
    found = scene().outage(60.0, 60.0, 400.0, silent=silent)
    assert found.steps_alone > 0
    assert found.most_behind > 0
    assert found.lost == 0
    assert found.found_s < 120.0


def test_a_hot_row_bounds_its_team_and_the_gate_keeps_the_rest() -> None:
    """A team that offers its row twice what it bears fills it; with its share bounded, others hardly notice."""
    slow = replace(COST, db_held=0.2)
    table = Times("none", "2026-01-01", {call: {1: slow, 512: slow} for call in CALLS})
    mix = make(teams=8, runs=120, seed=0, giant=0.5)
    open_, fenced = (Scene(table, Deployment(2, units=8, team_units=most), mix, 0).steady() for most in (8, 2))
    assert open_.row > 0.95
    assert fenced.p99_others_s < open_.p99_others_s


def test_rendezvous_hashing_moves_no_more_than_the_newcomers_share() -> None:
    """A team moves to the new database or not at all."""
    for team in range(200):
        homes = [place(f"team-{team}", count) for count in range(1, 9)]
        assert all(new in {old, count} for count, (old, new) in enumerate(itertools.pairwise(homes), start=1))
    assert moved(1_000, 4) == pytest.approx([500, 333, 250], abs=60)


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    """One line that says what to do."""
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    with pytest.raises(ValueError, match="--measure"):
        times.load(wrong)
    TABLE.save(tmp_path / "right.json")
    assert times.load(tmp_path / "right.json").calls == TABLE.calls
    assert TABLE.slowed(2.0, 3.0).cost("open", 7).db == pytest.approx(3 * COST.db)
