"""One setting on some ranks: seconds of steps, learner and plain loop by turns; and the memory of each, alone.

Owns the processes. They are forked from a server that has imported torch and transformers once. Memory is measured in
processes of their own: a CPU process's peak never falls, and on a GPU each side must have it for itself.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.learner.plain import PlainLoop
from benchmarks.learner.shapes import SHAPES, make_rows
from trainer.config import LearnerSection
from trainer.learner.fsdp import World, world
from trainer.learner.learner import Learner
from trainer.learner.meter import Meter

TIMEOUT_S = 1800.0
AGREEMENT = {"float32": 1e-3, "bfloat16": 5e-2}
"""Relative difference of gradient norms up to which both sides are held to do the same work."""


@dataclass(frozen=True, slots=True)
class Case:
    """What to measure: a setting's changes to the learner's defaults, on a model in a folder."""

    shape: str
    model: Path
    changes: dict[str, Any]
    device: str
    ranks: int
    seeds: int
    repeats: int

    @property
    def settings(self) -> LearnerSection:
        """The learner's settings."""
        budget = SHAPES[self.shape].microbatch_tokens
        return LearnerSection.model_validate({"device": self.device, "microbatch_tokens": budget, **self.changes})


@dataclass(frozen=True, slots=True)
class Timed:
    """One step: tokens that went through it, seconds on the wall, seconds of processors over all ranks."""

    tokens: int
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Steps side by side, and peaks in bytes, of the rank that has most."""

    learner: list[Timed]
    plain: list[Timed]
    learner_bytes: int
    plain_bytes: int


def measure(case: Case, out: Path) -> Measured:
    """Run a case in processes of its own.

    Raises:
        RuntimeError: a process failed, or the two sides do not do the same work.
    """
    _processes(case, _speed, out)
    speed = {side: [Timed(*step) for step in steps] for side, steps in json.loads(out.read_text("utf-8")).items()}
    peaks = []
    for work in (_learner_memory, _plain_memory):
        _processes(case, work, out)
        peaks.append(int(json.loads(out.read_text("utf-8"))))
    return Measured(speed["learner"], speed["plain"], peaks[0], peaks[1])


def _speed(case: Case, out: Path, where: World) -> None:
    """Time both sides by turns; the first step of each does not count."""
    learner = Learner(case.model, case.settings, where, seed=0)
    plain = PlainLoop(case.model, case.settings, where.device) if where.leads else None
    found: dict[str, list[tuple[int, float, float]]] = {"learner": [], "plain": []}
    for step in range(case.seeds * case.repeats + 1):
        rows = make_rows(SHAPES[case.shape], step % case.seeds)
        tokens = sum(map(len, rows))
        norm, seconds = math.nan, (0.0, 0.0)
        if plain is not None:
            norm, seconds = _timed(lambda: plain.step(rows))  # noqa: B023 - called at once
        found["plain"].append((tokens, *seconds))
        where.barrier()
        ours, (wall_s, cpu_s) = _timed(lambda: learner.step(rows).grad_norm)  # noqa: B023 - called at once
        found["learner"].append((tokens, wall_s, float(where.sum(torch.tensor(cpu_s)))))
        if step == 0 and where.leads and abs(ours - norm) > AGREEMENT[case.settings.dtype] * norm:
            raise RuntimeError(f"gradient norms differ: learner {ours:.6f}, plain loop {norm:.6f}")
    if where.leads:
        out.write_text(json.dumps({side: steps[1:] for side, steps in found.items()}), "utf-8")


def _timed(step: Callable[[], float]) -> tuple[float, tuple[float, float]]:
    """Return a step's gradient norm, which is known when all of it is done, and its seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    norm = step()
    return norm, (time.perf_counter() - wall, time.process_time() - cpu)


def _learner_memory(case: Case, out: Path, where: World) -> None:
    """Peak of the second step: the optimiser has its state by then."""
    learner = Learner(case.model, case.settings, where, seed=0)
    peaks = [learner.step(make_rows(SHAPES[case.shape], seed)).peak_memory_bytes for seed in (0, 1)]
    if where.leads:
        out.write_text(json.dumps(peaks[-1]), "utf-8")


def _plain_memory(case: Case, out: Path, where: World) -> None:
    """Peak of the plain loop's second step, on rank 0."""
    if where.leads:
        plain = PlainLoop(case.model, case.settings, where.device)
        plain.step(make_rows(SHAPES[case.shape], 0))
        meter = Meter(where.device)
        plain.step(make_rows(SHAPES[case.shape], 1))
        out.write_text(json.dumps(meter.peak_memory_bytes()), "utf-8")
    where.barrier()


def _processes(case: Case, work: Callable[[Case, Path, World], None], out: Path) -> None:
    out.unlink(missing_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.learner.measure"])
    ranks = [
        context.Process(target=_rank, args=(rank, port, case, work, out), daemon=True) for rank in range(case.ranks)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    if any(rank.exitcode for rank in ranks):
        raise RuntimeError(f"a process ended with {[rank.exitcode for rank in ranks]}; its error is above")


def _rank(rank: int, port: int, case: Case, work: Callable[[Case, Path, World], None], out: Path) -> None:
    torch.set_num_threads(1)
    disable_progress_bar()
    place = {
        "RANK": rank,
        "WORLD_SIZE": case.ranks,
        "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in place.items()})
    with world(case.device, timeout_s=TIMEOUT_S) as where:
        work(case, out, where)
