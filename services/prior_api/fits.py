"""One fitted head per team: rows that came since are appended to it, and now and then it is fitted afresh.

Fits run in threads of their own, off the event loop and, but for a team's first, off the path of every request: while
one is made the older one answers, with the new rows appended where the head can do that. Between two fits the order of
receipt can therefore move the last digits of a value; a fit itself is a function of the evidence alone.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from services.prior_api.context import rows_to_append, rows_to_learn
from services.prior_api.features import FeatureCache
from services.prior_api.heads import Context, Head, Predictions, Predictor, Question
from services.prior_api.heads.updates import Growing
from services.prior_api.metrics import Metrics
from services.prior_api.records import Cell, Standing
from services.prior_api.repository import Repository
from services.prior_api.sharing import place_of

MAX_TEAMS = 16
"""Fits kept: each holds a factor of the square of its rows, 17 MB at 2,048; the team asked longest ago goes first."""
MAX_POLICIES = 64
"""Policies that one fit learns from: the team's own first, then shared ones, the newest first."""
WORKERS = 2
"""Fits and answers at a time: a long fit of one team leaves a thread for the others."""
MAX_APPENDED = 512
"""Rows appended to one fit, a large step's: 2,560 rows answer at 1.5 times the cost of 2,048."""
GROWTH = 1 / 8
"""Share of a fit's rows from which those appended call for a new fit after one interval."""
PATIENCE = 30
"""Intervals after which fewer rows call for one too: the kernel's shape moves little with a few rows."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A predictor and what it rests on.

    Attributes:
        standing: evidence that it has seen.
        fitted: evidence version of the last fit from scratch; what lies between was appended.
        rows: in that fit.
        appended: rows appended to it.
        complete: whether every text had its features.
    """

    predictor: Predictor
    standing: Standing
    fitted: int
    rows: int
    appended: int
    complete: bool

    @property
    def evidence_version(self) -> int:
        """How many evidence rows the answers rest on."""
        return self.standing.version


class _Entry:
    """One team's fit, and the tasks around it."""

    def __init__(self) -> None:
        self.fit: Fit | None = None
        self.began = -math.inf
        self.refit: asyncio.Task[Fit] | None = None
        self.appending = asyncio.Lock()


class Fits:
    """Makes and keeps the fits.

    Args:
        max_rows: rows in one fit.
        refit_interval_s: shortest time between the starts of two fits of a team.
        refit_wait_s: longest wait for a refit where an older fit is there.
        encode_wait_s: longest wait for features.
    """

    def __init__(
        self,
        repository: Repository,
        features: FeatureCache,
        head: Head,
        metrics: Metrics,
        *,
        max_rows: int,
        refit_interval_s: float,
        refit_wait_s: float,
        encode_wait_s: float,
    ) -> None:
        self._repository, self._features, self._head, self._metrics = repository, features, head, metrics
        self._max_rows, self._encode_wait_s = max_rows, encode_wait_s
        self._refit_interval_s, self._refit_wait_s = refit_interval_s, refit_wait_s
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="head")

    async def stop(self) -> None:
        """Give up refits, wait for what computes already, and end the threads."""
        tasks = [entry.refit for entry in self._entries.values() if entry.refit is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def get(self, team: str, standing: Standing) -> Fit:
        """Return a fit that has seen this evidence, or an older one if there is none in time.

        Raises:
            ArithmeticError: the head finds no fit.
            Unavailable: the database did not answer.
        """
        entry = self._entry(team)
        if self._due(entry, standing):
            entry.began = asyncio.get_running_loop().time()
            entry.refit = asyncio.create_task(self._refit(team))
        await self._wait(entry)
        assert entry.fit is not None  # noqa: S101  the first fit was waited for
        if entry.fit.standing.version < standing.version:
            await self._append(team, entry, standing)
        return entry.fit

    async def answer(self, predictor: Predictor, question: Question) -> Predictions:
        """Ask a predictor, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, predictor.values, question)

    def _entry(self, team: str) -> _Entry:
        entry = self._entries.setdefault(team, _Entry())
        self._entries.move_to_end(team)
        if len(self._entries) > MAX_TEAMS:
            oldest = next(iter(self._entries.values()))
            if oldest.refit is None:
                self._entries.popitem(last=False)
        return entry

    def _due(self, entry: _Entry, standing: Standing) -> bool:
        if entry.refit is not None:
            return False
        fit = entry.fit
        if fit is None:
            return True
        if fit.complete and fit.fitted >= standing.version:
            return False
        few = fit.complete and isinstance(fit.predictor, Growing) and standing.version - fit.fitted < GROWTH * fit.rows
        intervals = PATIENCE if few else 1
        return asyncio.get_running_loop().time() - entry.began >= intervals * self._refit_interval_s

    async def _wait(self, entry: _Entry) -> None:
        """Take over a refit that is done; wait for it as long as is stated, without limit where there is no fit."""
        refit = entry.refit
        if refit is None:
            return
        await asyncio.wait({refit}, timeout=None if entry.fit is None else self._refit_wait_s)
        if refit.done():
            if entry.refit is refit:
                entry.refit = None
                entry.fit = refit.result()
            else:
                refit.result()

    async def _refit(self, team: str) -> Fit:
        async with self._repository.snapshot() as transaction:
            standing = await transaction.standing(team, MAX_POLICIES)
            cells = await rows_to_learn(transaction, team, standing, self._max_rows)
        context, complete = await self._context(cells, wait_s=self._encode_wait_s)
        with self._metrics.refit.time():
            loop = asyncio.get_running_loop()
            predictor = await loop.run_in_executor(self._threads, self._head.fit, context)
        return Fit(predictor, standing, standing.version, len(cells), 0, complete)

    async def _append(self, team: str, entry: _Entry, standing: Standing) -> None:
        """Append what came since to the team's fit, if its head can do that and there is room."""
        async with entry.appending:
            fit = entry.fit
            if fit is None or fit.standing.version >= standing.version or not isinstance(fit.predictor, Growing):
                return
            room = min(MAX_APPENDED, fit.rows) - fit.appended
            if standing.version - fit.standing.version > room:
                return
            async with self._repository.snapshot() as transaction:
                standing = await transaction.standing(team, MAX_POLICIES)
                cells = await rows_to_append(transaction, team, fit.standing, standing, room)
            if cells is None:
                return
            context, complete = await self._context(cells, wait_s=0.0)
            loop = asyncio.get_running_loop()
            try:
                predictor = await loop.run_in_executor(self._threads, fit.predictor.grown, context)
            except ArithmeticError:
                return  # the older fit answers until the next one is made
            if entry.fit is fit:
                entry.fit = replace(
                    fit,
                    predictor=predictor,
                    standing=standing,
                    appended=fit.appended + len(cells),
                    complete=fit.complete and complete,
                )

    async def _context(self, cells: Sequence[Cell], *, wait_s: float) -> tuple[Context, bool]:
        """Return cells with the features of their texts, and whether all are there."""
        places = {cell.text_hash: place_of(cell) for cell in cells if cell.text_hash is not None}
        vectors = await self._features.get(places.values(), wait_s=wait_s)
        features = {name: vectors[place] for name, place in places.items() if place in vectors}
        return Context(cells, features), len(features) == len(places)
