"""The order of runs and their execution: several at a time, each result written as soon as it is there.

Owns what is run before what, skipping what is done, the time that is left, and stopping. An early stop leaves a study
that can be read: tuning comes first, then seed by seed all methods on all tasks, then the ablations.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.learning import results
from benchmarks.learning.cells import POOLS, RATES, SEEDS, TASKS, TUNING_SEEDS, Cell
from benchmarks.learning.methods import ABLATIONS, METHODS
from benchmarks.learning.results import Result
from benchmarks.learning.tuning import Rates

Say = print
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before workers start: libraries read these when they are loaded. Threads that share a core wait for each other."""
PRIMARY_TASK = next(iter(TASKS))
"""The task of the ablations."""


def tuning(methods: Iterable[str] = METHODS, tasks: Iterable[str] = TASKS) -> list[Cell]:
    """Return the runs that learning rates are chosen by: each method at each rate, one seed on each pool."""
    return [
        Cell(task, pool, method, rate, seed)
        for task in tasks
        for method in methods
        for pool, seed in zip(POOLS, TUNING_SEEDS, strict=True)
        for rate in RATES
    ]


def comparison(rates: Rates, methods: Iterable[str] = METHODS, tasks: Iterable[str] = TASKS) -> list[Cell]:
    """Return the runs of the comparison, seed by seed, and the most important method first."""
    tasks, methods = tuple(tasks), tuple(methods)
    return [
        Cell(task, pool, method, rates.of(task, method), seed)
        for seed in SEEDS
        for method in methods
        for task in tasks
        for pool in POOLS
    ]


def ablations(rates: Rates, task: str = PRIMARY_TASK) -> list[Cell]:
    """Return the runs of the ablations on one task, those left out that are a method of the comparison itself."""
    cells = [
        Cell(task, pool, method, rates.of(task, method), seed)
        for seed in SEEDS
        for method in ABLATIONS
        for pool in POOLS
    ]
    changed = dict.fromkeys(method.rate_of for method in ABLATIONS.values())
    known = {cell.digest for cell in comparison(rates, changed, [task])}
    return [cell for cell in cells if cell.digest not in known]


@dataclass(frozen=True, slots=True)
class Study:
    """Where results go and how many runs go at a time.

    Attributes:
        out: file of results.
        known: files with results that need not be computed again, `out` included.
        cache: folder of policies and features.
    """

    out: Path
    known: Sequence[Path]
    cache: Path
    workers: int = 2

    def results(self) -> list[Result]:
        """Return what is there."""
        return results.current(results.read(self.known))

    def run(self, cells: Sequence[Cell]) -> bool:
        """Run those cells that have no result yet; return whether all have one now.

        Ctrl-C lets the runs under way end, keeps them, and starts no other.
        """
        done = {result.cell for result in self.results()}
        waiting = [cell for cell in dict.fromkeys(cells) if cell not in done]
        Say(f"{len(cells) - len(waiting)} of {len(cells)} runs are done, {len(waiting)} to go", flush=True)
        if not waiting:
            return True
        from benchmarks.learning import runs  # noqa: PLC0415  seconds to import: --help and reports answer without torch

        for shared in {(cell.task, cell.pool): cell for cell in waiting if _has_texts(cell)}.values():
            Say(f"encoding the prompts of {shared.task}, {shared.pool} (once)", flush=True)
            runs.prepare(shared, self.cache)
        os.environ.update(ONE_THREAD)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, context, initializer=runs.begin_worker) as pool:
            return self._drain(pool, waiting)

    def _drain(self, pool: ProcessPoolExecutor, waiting: list[Cell]) -> bool:
        from benchmarks.learning import runs  # noqa: PLC0415  as above

        began, ended, failed, total = time.monotonic(), 0, 0, len(waiting)
        code, under_way = version(), dict[Future[Result], Cell]()
        while waiting or under_way:
            try:
                while waiting and len(under_way) < self.workers:
                    cell = waiting.pop(0)
                    with _deaf():
                        under_way[pool.submit(runs.run, cell, self.cache, code)] = cell
                finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                Say(f"stopping: {len(under_way)} runs under way end first (again to drop them)", flush=True)
                waiting = []
                continue
            for future in finished:
                ended += 1
                failed += not self._take(future, under_way.pop(future))
                Say(f"{ended}/{total}, {_left(began, ended, total)} left", flush=True)
        return failed == 0 and ended == total

    def _take(self, future: Future[Result], cell: Cell) -> bool:
        """Keep a result, or say why there is none."""
        try:
            result = future.result()
        except BrokenProcessPool:
            raise
        except Exception as error:  # noqa: BLE001 - whatever ended a run must not end the others
            print(f"{cell.name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return False
        results.append(self.out, result)
        ends = f"{result.curve[0].accuracy:.3f} to {result.curve[-1].accuracy:.3f}"
        Say(f"{cell.name}: {ends} in {result.rollouts:,} rollouts, {result.seconds:.0f} s", end=" | ", flush=True)
        return True


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C for a moment, so that a worker that is started in it never hears one: it inherits what is ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def version() -> str:
    """Return the commit that runs, with a mark where files differ from it."""
    here = Path(__file__).parent
    commit, changes = (
        subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603, S607 - git, by whatever path
        for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    return (commit or "unknown") + ("+" if changes else "")


def _has_texts(cell: Cell) -> bool:
    return cell.config().allocator.prior_model == "gp"


def _left(began: float, ended: int, total: int) -> str:
    seconds = (time.monotonic() - began) / ended * (total - ended)
    return f"{seconds / 60:.0f} min"
