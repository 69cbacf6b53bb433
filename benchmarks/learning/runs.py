"""One run of the study, by the trainer's own loop: its parts, its collector, its learner. Needs torch.

Owns what is special here: the priors in process, files in memory, and the record that is kept. Everything else is
`trainer.loop.run_training`.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import platform
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import torch

from benchmarks.learning.cells import Cell, places
from benchmarks.learning.priors import Features, GaussianPriors
from benchmarks.learning.results import Measured, Result, Step
from rollout_budget.client import LocalAllocator
from trainer import parts, tasks
from trainer.config import Config
from trainer.loop import run_training
from trainer.metrics import Event, Listener, StepMetrics, Stepped, Summary

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder in memory; weights of every step pass through it
UNTIMED = {"evaluation", "checkpoint"}
"""Phases that are not counted as training."""
NICE = 19
"""Priority of a run: whoever else works on the machine comes first."""


def begin_worker() -> None:
    """Set up a process for runs: one thread, low priority, deaf to Ctrl-C, which the parent hears, and gone when it is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICE)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def prepare(cell: Cell, cache: Path) -> None:
    """Make what runs of this cell's task and pool share: features of its texts."""
    config = cell.config(places(cache, cache, cell.name))
    if config.allocator.prior_model == "gp":
        Features(cache).prepare(_texts(config))


def run(cell: Cell, cache: Path, code: str) -> Result:
    """Train as the cell says and return what came out."""
    folder = Path(tempfile.mkdtemp(prefix="learning-", dir=MEMORY if MEMORY.is_dir() else None))
    config = cell.config(places(folder, cache, cell.name))
    rows: list[StepMetrics] = []

    def listen(event: Event) -> None:
        if isinstance(event, Stepped):
            rows.append(event.metrics)

    began = time.monotonic()
    try:
        summary = run_training(config, on_event=listen, connect=_Connect(cache))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert summary is not None  # noqa: S101 - one process, which leads
    return _result(cell, code, summary, rows, time.monotonic() - began)


@dataclasses.dataclass(frozen=True, slots=True)
class _Connect:
    """Obeys `trainer.loop.Connect`: the trainer's own parts, with the Gaussian process where the run asks for it."""

    cache: Path

    def __call__(self, config: Config, tell: Listener) -> AbstractAsyncContextManager[parts.Parts]:
        return self._parts(config, tell)

    @asynccontextmanager
    async def _parts(self, config: Config, tell: Listener) -> AsyncIterator[parts.Parts]:
        async with parts.connect(config, tell) as usual:
            if config.allocator.prior_model != "gp":
                yield usual
                return
            features = Features(self.cache)
            features.prepare(_texts(config))
            yield dataclasses.replace(usual, allocator=LocalAllocator(priors=GaussianPriors(features)))


def _texts(config: Config) -> list[str]:
    return [problem.prompt for problem in tasks.get(config.task.name, config.task.options).train()]


def _result(cell: Cell, code: str, summary: Summary, rows: list[StepMetrics], seconds: float) -> Result:
    phases: Counter[str] = Counter()
    curve: list[Measured] = []
    for row in rows:
        phases.update(row.seconds)
        if row.held_out_accuracy is not None:
            trained = sum(taken for name, taken in phases.items() if name not in UNTIMED)
            curve.append(
                Measured(
                    rollouts=row.rollouts_total,
                    tokens=row.tokens_total,
                    seconds=round(trained, 3),
                    accuracy=row.held_out_accuracy,
                )
            )
    return Result(
        **dataclasses.asdict(cell),
        digest=cell.digest,
        code=code,
        machine=f"{platform.node()}, {os.cpu_count()} cores",
        rollouts=summary.rollouts,
        tokens=summary.tokens,
        seconds=round(seconds, 2),
        phases={name: round(taken, 2) for name, taken in phases.items()},
        curve=curve,
        steps=[_step(row) for row in rows if row.step > 0],
    )


def _step(row: StepMetrics) -> Step:
    return Step(
        rollouts=row.rollouts_total,
        groups=row.groups,
        accuracy=row.accuracy,
        grad_norm=row.grad_norm,
        entropy=row.entropy,
        clip_fraction=row.clip_fraction,
        prior_explained=row.prior_explained_variance,
    )
