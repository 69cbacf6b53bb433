"""Where a run's steps come from: which prompts, drawn under which weights, how far ahead of the learner.

Owns the choice of prompts, refills, the step's journal, and the one rule of asynchrony: the rollouts of step s are begun
once the weights of version s - 1 - `max_staleness` are published, under whatever is published by then. So with 0 drawing
and learning take turns, and a step's rollouts are exactly the policy's own; with n they overlap, and no token is older
than n versions when it is learned from. Steps come out in order, each once, however often the run was killed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rollout_budget.wire import MAX_GROUPS, PlanCandidate, PlanRequest
from trainer.config import Config
from trainer.errors import GenerationFailed
from trainer.groups import StepStats
from trainer.journal import Journal, Round, StepJournal
from trainer.prompts import PromptSampler, StepSize
from trainer.types import Problem, RolloutGroup
from trainer.waves import Collector

Fits = Callable[[Problem], bool]


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's rollouts, ready to learn from.

    Attributes:
        groups: to learn from; empty where no rollout could be had.
        memory: of the choice of prompts after this step; what `Producer.restore` takes.
        replayed: nothing was drawn: an earlier attempt had drawn all of it.
        resumed: an earlier attempt had begun it, so some of it may be of that one's weights.
    """

    step: int
    groups: list[RolloutGroup]
    drawn: StepStats
    memory: dict[str, Any]
    replayed: bool = False
    resumed: bool = False


@dataclass(slots=True)
class _Way:
    """What was chosen and drawn of a step so far."""

    journal: StepJournal
    groups: list[RolloutGroup] = field(default_factory=list)
    drawn: StepStats = field(default_factory=StepStats)
    keys: set[str] = field(default_factory=set)

    def add(self, round_: Round, groups: Sequence[RolloutGroup], drawn: StepStats) -> None:
        self.groups += groups
        self.drawn += drawn
        self.keys |= set(round_.keys)


class Producer:
    """The steps of a run, one after another.

    Args:
        config: of the run.
        collector: draws.
        sampler: chooses uniformly.
        journal: of the run.
        fits: whether a problem's prompt leaves room for a completion.
    """

    def __init__(
        self,
        config: Config,
        collector: Collector,
        sampler: PromptSampler,
        journal: Journal,
        *,
        fits: Fits,
    ) -> None:
        self._config = config
        self._collector = collector
        self._sampler = sampler
        self._size = StepSize.of(config)
        self._journal = journal
        self._attempt = 0
        self._fits = fits
        self._drawn = 0
        self._next = 1
        self._version = -1
        self._newer = asyncio.Condition()

    def restore(self, memory: dict[str, Any], *, step: int, drawn: int, attempt: int) -> None:
        """Go on after a step.

        Args:
            memory: what was remembered after it; empty before the first.
            step: the step.
            drawn: rollouts until then.
            attempt: as which groups are opened that are not on record.
        """
        if memory:
            self._sampler.restore(memory["sampler"])
            self._size.restore(memory["size"])
        self._next, self._drawn, self._attempt = step + 1, drawn, attempt

    async def published(self, version: int) -> None:
        """Hear that weights of this version are on the servers."""
        async with self._newer:
            self._version = version
            self._newer.notify_all()

    async def steps(self) -> AsyncGenerator[Batch, None]:
        """Yield the steps of the run as they come, drawn ahead as far as staleness allows.

        The last one may have drawn nothing: the budget was gone before the run's own end.

        Raises:
            TrainerError: see `produce`, as for everything else that it raises.
        """
        ready = asyncio.Queue[Batch | Exception | None]()
        filling = asyncio.create_task(self._fill(ready))
        try:
            while (item := await ready.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)

    async def _fill(self, ready: asyncio.Queue[Batch | Exception | None]) -> None:
        try:
            while not self._config.run.is_over(self._next - 1, self._drawn):
                batch = await self.produce()
                ready.put_nowait(batch)
                if not batch.drawn.used:
                    break
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the step
            ready.put_nowait(error)
        ready.put_nowait(None)

    async def produce(self) -> Batch:
        """Return the next step; nothing is drawn where the budget is gone.

        Raises:
            GenerationFailed: no server could draw a single rollout.
            RolloutBudgetError: see `Collector.collect`.
        """
        journal = self._journal.step(self._next)
        batch = self._again(journal) if journal.ended is not None else await self._draw(journal)
        self._drawn += batch.drawn.used
        self._next += 1
        return batch

    def _again(self, journal: StepJournal) -> Batch:
        """Return a step that was drawn before."""
        assert journal.ended is not None  # noqa: S101 - the caller looked
        memory = dict(journal.ended["memory"])
        self._sampler.restore(memory["sampler"])
        self._size.restore(memory["size"])
        cost = dict(journal.ended["cost"])
        drawn = StepStats(**{**cost, "request_ids": tuple(cost.get("request_ids", ()))})
        return Batch(self._next, journal.groups(), drawn, memory, replayed=True, resumed=True)

    async def _draw(self, journal: StepJournal) -> Batch:
        async with self._newer:
            oldest = max(0, self._next - 1 - self._config.rollouts.max_staleness)
            await self._newer.wait_for(lambda: self._version >= oldest)
        way, resumed = _Way(journal), bool(journal.rounds)
        wanted = self._size.next(self._remaining())
        for place in range(self._config.rollouts.refill_rounds + 1):
            lacking = wanted - len(way.groups)
            round_ = await self._round(way, place, lacking)
            if round_ is None:
                break
            await self._collect(way, round_, refilling=self._config.rollouts.refill_rounds > 0)
            if len(way.groups) >= wanted or way.drawn.refused:
                break
        if not way.keys:
            raise GenerationFailed("no prompt of the pool fits the model")
        if way.drawn.failed and not way.drawn.used:
            raise GenerationFailed(way.drawn.detail)
        self._size.saw(way.drawn.groups, way.drawn.used)
        memory = {"sampler": self._sampler.state(), "size": self._size.state()}
        if way.drawn.used:
            journal.end(way.groups, asdict(way.drawn), memory)
        return Batch(self._next, way.groups, way.drawn, memory, resumed=resumed)

    async def _collect(self, way: _Way, round_: Round, *, refilling: bool) -> None:
        problems = self._sampler.named(round_.keys)
        groups, drawn = await self._collector.collect(
            problems,
            step=self._next,
            version=round_.version,
            attempt=round_.attempt,
            plan_id=round_.plan_id,
            enough=round_.enough,
            journal=way.journal,
        )
        if drawn.cancelled:
            have = {group.problem.key for group in groups}
            self._sampler.give_back([problem for problem in problems if problem.key not in have])
        kept = [group for group in groups if not refilling or len(set(group.outcomes)) > 1]
        dull = StepStats(without_signal=len(groups) - len(kept))
        way.add(round_, kept, drawn + dull)

    async def _round(self, way: _Way, place: int, lacking: int) -> Round | None:
        """Return a round that is written down already, or choose one; None where no prompt is left to choose."""
        if place < len(way.journal.rounds):
            known = way.journal.rounds[place]
            self._sampler.restore(known.sampler)
            return known
        over = self._config.rollouts.over_issue
        chosen, plan_id = await self._choose(math.ceil(lacking * (1.0 + over)), way.keys, place)
        if not chosen:
            return None
        round_ = Round(
            keys=tuple(problem.key for problem in chosen),
            version=self._version,
            attempt=self._attempt,
            plan_id=plan_id,
            enough=lacking if over else None,
            sampler=self._sampler.state(),
        )
        way.journal.begin(round_)
        return round_

    async def _choose(self, count: int, without: set[str], place: int) -> tuple[list[Problem], str | None]:
        """Choose prompts: the sampler's next, or out of several times as many the allocator's plan."""
        settings = self._config.allocator
        if not settings.plan:
            return self._take(count, without), None
        candidates = self._take(min(MAX_GROUPS, round(count * settings.plan_candidates)), without)
        if not candidates:
            return [], None
        request = PlanRequest(
            plan_id=f"{self._next}-{place}-{self._attempt}",
            candidates=[
                PlanCandidate(prompt_key=problem.key, prompt=problem.prompt, policy_version=self._version)
                for problem in candidates
            ],
            groups=min(count, MAX_GROUPS),
            exploration=settings.plan_exploration,
        )
        answer = await self._collector.allocator.plan(self._collector.run_id, request)
        return self._sampler.named([prompt.prompt_key for prompt in answer.prompts]), request.plan_id

    def _take(self, count: int, without: set[str]) -> list[Problem]:
        """Take problems that fit the model; what does not is passed over, at most once through the pool."""
        taken: list[Problem] = []
        tried = 0
        while len(taken) < count and tried < len(self._sampler):
            more = self._sampler.take(count - len(taken), without | {problem.key for problem in taken})
            if not more:
                break
            tried += len(more)
            taken += [problem for problem in more if self._fits(problem)]
        return taken

    def _remaining(self) -> int | None:
        limit = self._config.run.rollouts
        return None if limit is None else limit - self._drawn
