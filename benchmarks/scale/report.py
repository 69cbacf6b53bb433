"""The answers as tables in Markdown, and the two plots. Prints; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.scale.check import GROUPS, Comparison
from benchmarks.scale.mix import KINDS, moved
from benchmarks.scale.scenes import REGIONS, RUNS, TEAMS, Load, Outage, Scene, needed, region_mix
from benchmarks.scale.times import Times
from benchmarks.scale.world import Deployment

SEEDS = (0, 1, 2)
GROWTH = (1, 2, 4, 10)
BEGINS_S, LASTS_S, ENDS_S = 240.0, 300.0, 1_200.0


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def costs(times: Times) -> None:
    """Print what was measured."""
    print(f"### What one call costs, ms ({times.date}; {times.machine})\n")
    head = ("call", "groups", "CPU, service", "CPU, database", "team's row held", "statements")
    table(
        head,
        [
            (call, size, f"{1e3 * cost.cpu:.1f}", f"{1e3 * cost.db:.1f}", f"{1e3 * cost.held(0.0003):.1f}",
             f"{cost.statements_before + cost.statements_held:.0f}")
            for call, sizes in times.calls.items()
            for size, cost in sizes.items()
        ],
    )  # fmt: skip


def offered(times: Times) -> None:
    """Print the mix and what it offers."""
    print(f"### What {TEAMS:,} teams with {RUNS:,} runs ask for\n")
    head = ("kind", "share of runs", "groups per step", "reports per step", "s per wave", "s of training")
    span = "{0[0]:g} to {0[1]:g}".format
    rows = [(k.name, f"{k.share:.0%}", span(k.groups), k.waves, span(k.wave_s), span(k.train_s)) for k in KINDS]
    table(head, rows)
    loads = [region_mix(seed).offered(times) for seed in SEEDS]
    names = {"calls_per_s": "calls per s", "groups_per_s": "groups per s", "service_cores": "cores of the service",
             "database_cores": "cores of the databases"}  # fmt: skip
    table(
        ("one region of four", "mean", "least", "most"),
        [
            (label, *(f"{one:,.1f}" for one in (np.mean(found), min(found), max(found))))
            for name, label in names.items()
            for found in [[load[name] for load in loads]]
        ],
    )


def sizing(times: Times) -> int:
    """Print the replicas needed per region; return the most of any seed."""
    print("### Replicas for one region, with one database of 16 cores: p99 of a report within 250 ms\n")
    found = [needed(times, seed, region_mix(seed), Deployment(1)) for seed in SEEDS]
    rows = [(seed, replicas, *_cells(load)) for seed, (replicas, load) in zip(SEEDS, found, strict=True)]
    table(("seed", "replicas", *_HEAD), rows)
    most = max(replicas for replicas, _ in found)
    print(f"Four regions: {REGIONS * most} replicas, {REGIONS} databases.\n")
    return most


def growth(times: Times, replicas: int) -> None:
    """Print what breaks first as everything grows, and with a remedy after the other."""
    for title, more, split in (
        ("nothing added", False, 1),
        ("replicas grow too", True, 1),
        ("replicas grow too, and the giant is ten teams", True, 10),
    ):
        print(f"### As load grows: {title}\n")
        rows = []
        for factor in GROWTH:
            mix = region_mix(0, factor, split=split)
            count = replicas * factor if more else replicas
            rows.append((f"x{factor}", count, *_cells(Scene(times, Deployment(count), mix, 0).steady())))
        table(("load", "replicas", *_HEAD), rows)


def giant(times: Times, replicas: int) -> None:
    """Print what one team's row bears, and what a bound on one team's calls per replica does for the others."""
    for bound in (Deployment(1).units, Deployment(1).team_units):
        print(
            f"### One giant team grows alone; a replica works on {Deployment(1).units} calls, on {bound} of one team\n"
        )
        rows = []
        for factor in (1, 1.5, 2, 4):
            mix = region_mix(0, giant_runs=factor)
            own = sum(run.team == 0 for run in mix.runs)
            held = mix.held(0, times, Deployment(1).round_trip_s)
            load = Scene(times, Deployment(replicas, team_units=bound), mix, 0).steady()
            rows.append((own, f"{held:.0%}", *_cells(load)))
        table(("its runs", "row held without queues", *_HEAD), rows)


def outage(times: Times, replicas: int, folder: Path) -> None:
    """Print what five minutes without a database cost."""
    print("### One region's database is away for five minutes\n")
    rows = []
    scenes: list[Outage] = []
    for silent in (False, True):
        for seed in SEEDS:
            scene = Scene(times, Deployment(replicas), region_mix(seed), seed)
            found = scene.outage(BEGINS_S, LASTS_S, ENDS_S, silent=silent)
            scenes.append(found)
            rows.append((
                "no answer" if silent else "refused", seed, found.steps, found.steps_alone, found.steps_late,
                f"{found.longest_wait_s:.1f}", found.most_behind, f"{found.found_s:.0f}",f"{found.found_others_s:.0f}", f"{found.told_s:.0f}",
                f"{found.normal_s:.0f}", found.lost,
            ))  # fmt: skip
    head = ("connections", "seed", "steps", "decided alone", "late", "longest wait, s", "most steps untold",
            "last step alone, s after", "of other teams", "all told, s after", "normal, s after", "steps lost")  # fmt: skip
    table(head, rows)
    _plot(scenes[0], folder / "scale-outage.png")


def restart(times: Times, replicas: int) -> None:
    """Print what a rolling restart costs."""
    print("### Rolling restart of every replica, one after the other, 10 s each\n")
    rows = []
    for seed in SEEDS:
        load = Scene(times, Deployment(replicas), region_mix(seed), seed).restart(60.0, 60.0 + 11.0 * replicas)
        figures = (load.p50_s, load.p99_s)
        rows.append(
            (
                seed,
                *(f"{1e3 * one:.0f}" for one in figures),
                f"{load.busy:.0f}",
                f"{load.alone:.2f}",
                f"{load.late:.2f}",
            )
        )
    table(("seed", "report p50, ms", "p99, ms", "answers 503", "steps alone, %", "steps late, %"), rows)


def moving() -> None:
    """Print how many teams move when one more database is added."""
    print(f"### Teams that move when one more database is added (rendezvous hashing, {TEAMS:,} teams)\n")
    counts = moved(TEAMS, 8)
    rows = [(f"{old} to {old + 1}", count, f"{TEAMS / (old + 1):.0f}") for old, count in enumerate(counts, start=1)]
    table(("databases", "teams moved", "their fair share"), rows)


def checked(found: Sequence[Comparison]) -> None:
    """Print the simulation beside the real thing."""
    print(
        f"### The simulation against a real replica and PostgreSQL, steps of {GROUPS} groups arriving at random, ms\n"
    )
    head = ("steps per s", "core busy", "calls", "real p50", "p99", "simulated p50", "p99", "error p50", "p99",
            "cores slowed by others: service, database", "simulated so p50", "p99", "error p50", "p99", "failed")  # fmt: skip
    rows = []
    for one in found:
        errors = [[f"{said / real - 1:+.0%}" for said, real in zip(some, one.real_ms, strict=True)]
                  for some in (one.simulated_ms, one.slowed_ms)]  # fmt: skip
        cells = [[f"{value:.0f}" for value in some] for some in (one.real_ms, one.simulated_ms, one.slowed_ms)]
        slowed = f"x{one.slowed[0]:.2f}, x{one.slowed[1]:.2f}"
        rows.append((f"{one.steps_per_s:.1f}", f"{one.utilisation:.0%}", one.calls, *cells[0], *cells[1], *errors[0],
                     slowed, *cells[2], *errors[1], one.failed))  # fmt: skip
    table(head, rows)


_HEAD = ("calls per s", "report p50, ms", "p99, ms", "p99 of other teams, ms", "service busy", "database busy",
         "hottest row busy", "connections held", "503 per 100 calls", "steps alone, %", "steps late, %")  # fmt: skip


def _cells(load: Load) -> tuple[str, ...]:
    return (
        f"{load.calls_per_s:.0f}",
        *(f"{1e3 * one:.0f}" for one in (load.p50_s, load.p99_s, load.p99_others_s)),
        *(f"{one:.0%}" for one in (load.service, load.database, load.row, load.connections)),
        f"{load.busy:.2f}",
        f"{load.alone:.2f}",
        f"{load.late:.2f}",
    )


def _plot(found: Outage, path: Path) -> None:
    figure, axes = plt.subplots(3, 1, figsize=(8, 7), sharex=True, layout="constrained")
    tens = 10.0 * np.arange(len(found.p99_ms))
    for axis, moments, values, label in (
        (axes[0], tens[: len(found.alone)], found.alone, "steps decided\nalone, per s"),
        (axes[1], found.seconds, found.backlog, "steps closed,\nnot yet told"),
        (axes[2], tens, found.p99_ms, "p99 of a report\nwith retries, ms"),
    ):
        axis.axvspan(BEGINS_S, BEGINS_S + LASTS_S, color="0.9")
        axis.plot(moments, values, color="tab:blue", linewidth=1.2)
        axis.set_ylabel(label)
        axis.set_xlim(0, ENDS_S)
    axes[2].set_yscale("log")
    axes[2].set_xlabel("seconds; grey: the database is away")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"Plot: {path}\n")
