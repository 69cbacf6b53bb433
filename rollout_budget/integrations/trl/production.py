"""The drawing of rollouts ahead of a trainer: batches of prompts, each opened, drawn in waves, scored and delivered.

Owns the order of these and how far ahead it goes. Lives in one event loop; the worker around it has the thread.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

from rollout_budget.integrations.shared import prompt_of
from rollout_budget.integrations.trl.completions import Completion, Completions
from rollout_budget.integrations.trl.drawing import Drawing, Rewarding, arrays
from rollout_budget.integrations.trl.source import Numbered, Source
from rollout_budget.session import AsyncSession

log = logging.getLogger(__name__)

POLL_S = 0.05
"""Between two looks at TRL's queue, which gives no sign when it is emptied; far below the time of a step."""
FILLERS = 64
"""Samples without gradient handed over at once when the budget is gone, so that the step under way is full soon."""


class Production:
    """Draws until it is cancelled.

    Attributes:
        version: of the weights that the server has now.
        ahead: rollouts that may be under way or wait for the trainer, at most.
        beat: when it last was seen alive, on the monotonic clock.
        spent: whether the budget is gone and all that it bought was taken.
    """

    def __init__(self, session: AsyncSession, source: Source, rewarding: Rewarding, *, patience_s: float) -> None:
        self.samples: queue.Queue[RolloutSample] = queue.Queue()
        self.metrics: queue.Queue[dict[str, Any]] = queue.Queue()
        self.version = 0
        self.ahead = 1
        self.beat = time.monotonic()
        self.spent = False
        self._session = session
        self._source = source
        self._rewarding = rewarding
        self._patience_s = patience_s
        self._open: list[Drawing] = []
        self._last: RolloutSample | None = None
        self._told: dict[str, float] = {}
        self._delivered = self._groups = 0

    async def run(self, completions: Completions) -> None:
        """Draw.

        Raises:
            ExceptionGroup: of what a batch raised: vLLM is gone, a reward function failed.
        """
        async with self._session, completions as vllm, asyncio.TaskGroup() as batches:
            granted_at = time.monotonic()
            for rows in self._source.batches():
                await self._until(partial(self._room, len(rows)))
                drawings = await self._opened(rows)
                if any(one.group.want for one in drawings):
                    granted_at = time.monotonic()
                    self._open += drawings
                    batches.create_task(self._drawn(vllm, drawings))
                    continue
                await self._session.close([one.group for one in drawings])
                await asyncio.sleep(POLL_S)
                if time.monotonic() - granted_at > self._patience_s:
                    await self._fill(rows[0])

    async def tell(self) -> None:
        """Put the budget's figures since the last call where the trainer reads metrics; totals as what was added."""
        figures = self._session.metrics()
        totals = {name: value for name, value in figures.items() if name.endswith("_total")}
        added = {name: value - self._told.get(name, 0.0) for name, value in totals.items()}
        self._told = totals
        self.metrics.put(figures | added)

    def _room(self, prompts: int) -> bool:
        """Whether that many more prompts can be drawn and learned from before they are stale, at the usual group size."""
        usual = self._delivered / self._groups if self._groups else self._session.spec.k_max
        under_way = self.samples.qsize() + sum(max(one.group.granted, usual) for one in self._open)
        return under_way == 0 or under_way + prompts * usual <= self.ahead

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.beat = time.monotonic()
            await asyncio.sleep(POLL_S)
        self.beat = time.monotonic()

    async def _opened(self, rows: Sequence[Numbered]) -> list[Drawing]:
        prompts = [prompt_of(row, group=f"g{number}", key=self._source.key) for number, row in rows]
        groups = await self._session.open(prompts, version=self.version)
        return [
            Drawing(number, row, self._source.ids(row["prompt"]), group)
            for (number, row), group in zip(rows, groups, strict=True)
        ]

    async def _drawn(self, vllm: Completions, drawings: Sequence[Drawing]) -> None:
        """Draw a batch in waves; a group is delivered when it wants no more, at the latest when the batch ends."""
        mine = {one.group.id: one for one in drawings}
        try:
            async with aclosing(self._session.waves([one.group for one in drawings])) as waves:
                async for wave in waves:
                    wanting = {group.id for group in wave}
                    self._deliver([one for one in drawings if one.group.id not in wanting])
                    async with asyncio.TaskGroup() as tasks:
                        for name in wanting:
                            tasks.create_task(self._draw(vllm, mine[name]))
        finally:
            self._deliver(drawings)

    async def _draw(self, vllm: Completions, drawing: Drawing) -> None:
        completions = await vllm.draw(drawing.prompt_ids, drawing.group.want)
        prompt = drawing.row["prompt"]
        texts = [self._source.text(prompt, one) for one in completions]
        drawing.take(completions, texts, await self._rewarding.score(drawing.row, texts, completions))

    def _deliver(self, drawings: Sequence[Drawing]) -> None:
        for drawing in drawings:
            if drawing in self._open:
                self._open.remove(drawing)
                self._groups, self._delivered = self._groups + 1, self._delivered + drawing.group.used
                for sample in drawing.samples(self._rewarding.names):
                    self._last = replace(sample, enqueued_at=time.time())
                    self.samples.put(self._last)
                self._measure(drawing.completions)

    def _measure(self, completions: Sequence[Completion]) -> None:
        """Tell lengths under the names of TRL's own worker."""
        for one in completions:
            length = float(len(one.ids))
            self.metrics.put(
                {
                    "completions/mean_length": (length, 1.0),
                    "completions/min_length": length,
                    "completions/max_length": length,
                    "completions/clipped_ratio": (float(one.cut), 1.0),
                }
            )

    async def _fill(self, row: Numbered) -> None:
        """Let the trainer end its step when nothing is to come: hand over samples that move nothing, without end."""
        await self._until(lambda: not self._open and self.samples.empty())
        self.spent = True
        log.warning("run %r: its budget grants nothing more; the training ends", self._session.spec.run_id)
        filler = replace(self._last or self._blank(row), advantage=0.0, metrics={}, enqueued_at=None)
        while True:
            for _ in range(FILLERS):
                self.samples.put(replace(filler, model_version=self.version))
            await self._until(self.samples.empty)

    def _blank(self, row: Numbered) -> RolloutSample:
        number, columns = row
        blank = Completion([self._source.tokenizer.eos_token_id], [0.0], cut=False)
        return RolloutSample(
            prompt=columns["prompt"],
            completion=[],
            advantage=0.0,
            model_version=self.version,
            group_id=number,
            metrics={},
            **arrays(self._source.ids(columns["prompt"]), blank),
        )
