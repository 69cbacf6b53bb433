"""One fitted head per team: refitted when evidence or features have come, but no more often than a stated interval.

Fits run in threads of their own, off the event loop. Whoever asks while one is being made waits for it, but where an
older fit is there no longer than is stated: the answer then says which evidence it rests on.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from services.prior_api.features import FeatureCache
from services.prior_api.heads import Context, Head, Predictions, Predictor, Question
from services.prior_api.metrics import Metrics
from services.prior_api.records import Cell, Policy
from services.prior_api.repository import Repository

MAX_TEAMS = 16
"""Fits kept: each holds a factor of max_rows squared, 17 MB at 2,048 rows; the team asked longest ago goes first."""
MAX_POLICIES = 64
"""Policies that one fit learns from: the team's own first, then shared ones, the newest first."""
WORKERS = 2
"""Fits and answers at a time: a long fit of one team leaves a thread for the others."""


@dataclass(slots=True)
class _Entry:
    fit: Fit | None = None
    began: float = -math.inf
    refit: asyncio.Task[Fit] | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """A predictor, the evidence version that it is of, and whether every text had its features."""

    predictor: Predictor
    evidence_version: int
    complete: bool


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

    async def get(self, team: str, evidence_version: int) -> Fit:
        """Return a fit of the newest evidence, or an older one if the newest is not ready in time.

        Raises:
            ArithmeticError: the head finds no fit.
            Unavailable: the database did not answer.
        """
        entry = self._entry(team)
        if self._due(entry, evidence_version):
            entry.began = asyncio.get_running_loop().time()
            entry.refit = asyncio.create_task(self._refit(team))
        refit = entry.refit
        if refit is not None:
            await asyncio.wait({refit}, timeout=None if entry.fit is None else self._refit_wait_s)
            if refit.done():
                if entry.refit is refit:
                    entry.refit = None
                    entry.fit = refit.result()
                return refit.result()
        assert entry.fit is not None  # noqa: S101  the first fit was waited for
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

    def _due(self, entry: _Entry, evidence_version: int) -> bool:
        if entry.refit is not None:
            return False
        if entry.fit is None:
            return True
        fresh = entry.fit.complete and entry.fit.evidence_version >= evidence_version
        return not fresh and asyncio.get_running_loop().time() - entry.began >= self._refit_interval_s

    async def _refit(self, team: str) -> Fit:
        async with self._repository.begin() as transaction:
            version = await transaction.evidence_version(team)
            cells: list[Cell] = []
            for policy, most in share(await transaction.visible_policies(team, MAX_POLICIES), self._max_rows):
                cells += await transaction.cells(policy, most=most)
        hashes = {cell.text_hash for cell in cells if cell.text_hash is not None}
        features = await self._features.get(hashes, wait_s=self._encode_wait_s)
        with self._metrics.refit.time():
            predictor = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._head.fit, Context(cells, features)
            )
        return Fit(predictor, version, len(features) == len(hashes))


def share(policies: list[Policy], most: int) -> list[tuple[Policy, int]]:
    """Share out `most` rows: every policy gets an equal part, and what one does not need goes to the others."""
    shares: list[tuple[Policy, int]] = []
    left = most
    for place, policy in enumerate(sorted(policies, key=lambda policy: policy.rows)):
        part = min(policy.rows, left // (len(policies) - place))
        shares.append((policy, part))
        left -= part
    return shares
