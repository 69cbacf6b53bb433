"""One fitted head per team: refitted when evidence or features have come, but no more often than a stated interval.

Fits run in threads of their own, off the event loop; whoever needs one that is being made waits for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

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
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    predictor: Predictor | None = None
    evidence_version: int = -1
    complete: bool = False
    began: float = 0.0


class Fits:
    """Makes and keeps the fits."""

    def __init__(
        self,
        repository: Repository,
        features: FeatureCache,
        head: Head,
        metrics: Metrics,
        *,
        max_rows: int,
        refit_interval_s: float,
        encode_wait_s: float,
    ) -> None:
        self._repository, self._features, self._head, self._metrics = repository, features, head, metrics
        self._max_rows, self._refit_interval_s, self._encode_wait_s = max_rows, refit_interval_s, encode_wait_s
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="head")

    def stop(self) -> None:
        """Wait for fits in progress and end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def get(self, team: str, evidence_version: int) -> tuple[Predictor, int]:
        """Return a fit and the evidence version that it is of; `evidence_version` is the newest.

        Raises:
            ArithmeticError: the head finds no fit.
            Unavailable: the database did not answer.
        """
        entry = self._entries.setdefault(team, _Entry())
        self._entries.move_to_end(team)
        while len(self._entries) > MAX_TEAMS:
            self._entries.popitem(last=False)
        async with entry.lock:
            now = asyncio.get_running_loop().time()
            fresh = entry.complete and entry.evidence_version >= evidence_version
            if entry.predictor is None or not (fresh or now - entry.began < self._refit_interval_s):
                entry.began = now
                await self._refit(team, entry)
            assert entry.predictor is not None  # noqa: S101  _refit sets it or raises
            return entry.predictor, entry.evidence_version

    async def answer(self, predictor: Predictor, question: Question) -> Predictions:
        """Ask a predictor, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, predictor.values, question)

    async def _refit(self, team: str, entry: _Entry) -> None:
        async with self._repository.begin() as transaction:
            version = await transaction.evidence_version(team)
            cells: list[Cell] = []
            for policy, most in share(await transaction.visible_policies(team, MAX_POLICIES), self._max_rows):
                cells += await transaction.cells(policy, most=most)
        hashes = {cell.text_hash for cell in cells if cell.text_hash is not None}
        features = await self._features.get(hashes, wait_s=self._encode_wait_s)
        with self._metrics.refit.time():
            entry.predictor = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._head.fit, Context(cells, features)
            )
        entry.evidence_version, entry.complete = version, len(features) == len(hashes)


def share(policies: list[Policy], most: int) -> list[tuple[Policy, int]]:
    """Share out `most` rows: every policy gets an equal part, and what one does not need goes to the others."""
    shares: list[tuple[Policy, int]] = []
    left = most
    for place, policy in enumerate(sorted(policies, key=lambda policy: policy.rows)):
        part = min(policy.rows, left // (len(policies) - place))
        shares.append((policy, part))
        left -= part
    return shares
