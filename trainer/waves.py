"""The rollouts of one choice of prompts: open groups, draw waves, grade, ask again, close.

Owns the order of calls and the overlap of groups; decides nothing: how many rollouts a group gets and what is subtracted
from them is the allocator's answer. Groups do not wait for each other. As soon as a wave is graded it is noted, and its
group reports; reports that come while a call to the allocator is under way gather and go with the next one.

A seed fixes which samples are drawn where the generator honours seeds, but not which reports share a call. Decisions of
one call are made from the same record of the prior, so baselines of two runs of one seed may differ a little.

Leases are long (`LEASE_S`) and reports renew them once an eighth is gone, so no heartbeat is sent. If `collect` is
cancelled or raises, its groups stay open until their leases end; calling it again with the same step and attempt opens
the same groups, and with the step's journal draws only what is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from rollout_budget import tracing
from rollout_budget.client import requests
from rollout_budget.client.base import Allocator
from rollout_budget.wire import (
    MAX_GROUPS,
    CloseRequest,
    Decision,
    ObserveGroup,
    ObserveRequest,
    OpenedGroup,
    OpenGroup,
    OpenRequest,
)
from trainer.batching import Coalescer
from trainer.errors import GenerationFailed
from trainer.groups import Group, Shape, StepStats, cost_of, group_id, wave_seed
from trainer.journal import StepJournal, Wave
from trainer.types import Generator, Problem, RolloutGroup, Sample, Sampling, Verifier

LEASE_S = 3600.0
"""How long grants are held without a report: far longer than any wave, short enough to return a dead trainer's."""
NAMED_REQUESTS = 20
"""Requests gone wrong that a round names: enough to find the rest beside them in a service's log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Everything that stays the same from step to step.

    Attributes:
        encode: prompt text to token ids.
        seed: of the run; each wave's own seed follows from it, the step, the prompt and the wave.
        reference_group_size: what savings are stated against.
        shape: how the learner wants its groups.
    """

    run_id: str
    allocator: Allocator
    generator: Generator
    verifier: Verifier
    encode: Callable[[str], Sequence[int]]
    sampling: Sampling
    seed: int = 0
    reference_group_size: int = 16
    lease_s: float = LEASE_S
    shape: Shape = field(default_factory=Shape)

    async def collect(
        self,
        problems: Sequence[Problem],
        *,
        step: int,
        version: int,
        attempt: int = 0,
        plan_id: str | None = None,
        enough: int | None = None,
        journal: StepJournal | None = None,
    ) -> tuple[list[RolloutGroup], StepStats]:
        """Return the finished groups of these problems, in their order, and what they cost.

        Args:
            problems: with distinct keys.
            step: part of every group's id.
            version: weight version to sample under, and the policy version that the allocator is told.
            attempt: raise it to draw a step anew whose groups were closed before.
            plan_id: of the plan that chose them.
            enough: with so many groups complete, whatever is still being generated is cancelled. None waits for all.
            journal: of the step; waves that it has are not drawn again, new ones are noted before they are reported.

        Raises:
            ValueError: two problems have the same key.
            RolloutBudgetError: the allocator refuses, or cannot be reached and has no fallback.
        """
        if len({problem.key for problem in problems}) < len(problems):
            raise ValueError("a step holds each problem once: two keys are equal")
        where = _Where(step, version, attempt, plan_id)
        with tracing.span("internal", "collect rollouts", rollout_budget__step=step):
            return await _Call(self, where, enough, journal).run(problems)


@dataclass(frozen=True, slots=True)
class _Where:
    """What the groups of one call have in common."""

    step: int
    version: int
    attempt: int
    plan_id: str | None

    def opening(self, problem: Problem) -> OpenGroup:
        """Return a problem's group as the allocator is asked for it."""
        return OpenGroup(
            group_id=group_id(self.step, problem.key),
            attempt=self.attempt,
            prompt_key=problem.key,
            prompt=problem.prompt,
            policy_version=self.version,
            step=self.step,
            **({} if self.plan_id is None else {"plan_id": self.plan_id}),
        )


class _Call:
    """One call of `collect`."""

    def __init__(self, collector: Collector, where: _Where, enough: int | None, journal: StepJournal | None) -> None:
        self._of = collector
        self._where = where
        self._journal = journal
        self._lacking = enough
        self._cut = asyncio.Event()
        self._calls = 0
        self._waited_s = 0.0
        self._notes: list[str] = []
        self._troubled: list[str] = []
        self._observer = Coalescer[ObserveGroup, Decision](self._observe, most=MAX_GROUPS)

    async def run(self, problems: Sequence[Problem]) -> tuple[list[RolloutGroup], StepStats]:
        began = time.monotonic()
        groups = await self._open(problems)
        try:
            async with asyncio.TaskGroup() as tasks:
                for group in groups:
                    tasks.create_task(self._draw(group))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        finally:
            await self._observer.close()
        used = await self._close(groups)
        cost = cost_of(groups, used=used, reference_group_size=self._of.reference_group_size, notes=self._notes)
        waited = self._waited_s + max((group.waited_s for group in groups), default=0.0)
        finished = [group.finished(self._where.version, self._of.shape) for group in groups]
        return [group for group in finished if group is not None], replace(
            cost,
            seconds=time.monotonic() - began,
            allocator_calls=self._calls,
            allocator_s=waited,
            request_ids=tuple(self._troubled),
        )

    async def _open(self, problems: Sequence[Problem]) -> list[Group]:
        began, groups = time.monotonic(), list[Group]()
        for first in range(0, len(problems), MAX_GROUPS):
            chunk = problems[first : first + MAX_GROUPS]
            request = OpenRequest(groups=[self._where.opening(problem) for problem in chunk], lease_s=self._of.lease_s)
            with self._calling() as sent:
                answer = await self._of.allocator.open(self._of.run_id, request)
                if answer.degraded:
                    self._notes.append(answer.detail or "the prior could not be used")
                    sent.failures += sent.attempts
            groups += [self._group(problem, opened) for problem, opened in zip(chunk, answer.groups, strict=True)]
        self._waited_s += time.monotonic() - began
        return groups

    def _group(self, problem: Problem, opened: OpenedGroup) -> Group:
        """Return a group with the waves that the journal has of it."""
        ids = tuple(self._of.encode(problem.prompt))
        group = Group(problem, opened, prompt_ids=ids, samples=[], outcomes=[], granted=0)
        for wave in [] if self._journal is None else self._journal.waves[opened.group_id]:
            _add(group, wave)
        group.granted = len(group.samples) or opened.grant
        return group

    async def _draw(self, group: Group) -> None:
        """Draw waves until the allocator says stop, no server can, or enough other groups are complete."""
        more = await self._decide(group) if group.samples else group.opened.grant
        while more > 0:
            try:
                wave = await self._wave(group, more)
            except GenerationFailed as error:
                group.failure = str(error)
                return
            if wave is None:
                group.cancelled += more
                return
            if self._journal is not None:
                self._journal.drew(group.opened.group_id, wave)
            _add(group, wave)
            more = await self._decide(group)
        if group.decision is not None:
            self._complete()

    def _complete(self) -> None:
        if self._lacking is not None:
            self._lacking -= 1
            if self._lacking <= 0:
                self._cut.set()

    async def _decide(self, group: Group) -> int:
        """Report a group's outcomes; return how many more to draw."""
        asked = time.monotonic()
        group.decision = await self._observer.ask(group.report())
        waited = time.monotonic() - asked
        group.waited_s += waited
        group.longest_wait_s = max(group.longest_wait_s, waited)
        group.granted += group.decision.more
        return group.decision.more

    async def _wave(self, group: Group, count: int) -> Wave | None:
        """Draw and grade a wave; None where it was cancelled because enough groups are complete."""
        began = time.monotonic()
        samples = await self._unless_cut(
            self._of.generator.generate(
                group.prompt_ids,
                count=count,
                sampling=self._of.sampling,
                version=self._where.version,
                seed=wave_seed(self._of.seed, group.opened.group_id, self._where.attempt, group.waves),
            )
        )
        if samples is None:
            return None
        seconds = time.monotonic() - began
        outcomes = await self._of.verifier.grade(group.problem, [sample.text for sample in samples])
        return Wave(tuple(samples), tuple(outcomes), seconds)

    async def _unless_cut(self, drawing: Coroutine[Any, Any, list[Sample]]) -> list[Sample] | None:
        """Await samples, but no longer than others are needed."""
        if self._lacking is None:
            return await drawing
        tasks = [asyncio.ensure_future(drawing), asyncio.ensure_future(self._cut.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            first = tasks[0]
            return cast("list[Sample]", first.result()) if first.done() else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _observe(self, groups: list[ObserveGroup]) -> Sequence[Decision]:
        with self._calling():
            return (await self._of.allocator.observe(self._of.run_id, ObserveRequest(groups=groups))).groups

    async def _close(self, groups: Sequence[Group]) -> int:
        """Close all groups, normally in one call; return how many rollouts the allocator booked as drawn."""
        began, used = time.monotonic(), 0
        for first in range(0, len(groups), MAX_GROUPS):
            closes = [group.settlement() for group in groups[first : first + MAX_GROUPS]]
            with self._calling():
                answer = await self._of.allocator.close(self._of.run_id, CloseRequest(groups=closes))
            used += sum(closed.committed + closed.overage for closed in answer.groups)
        self._waited_s += time.monotonic() - began
        return used

    @contextmanager
    def _calling(self) -> Iterator[requests.Request]:
        """Count a call to the allocator, and keep its name if anything that was sent for it went wrong."""
        self._calls += 1
        with requests.named() as sent:
            yield sent
        if sent.failures and len(self._troubled) < NAMED_REQUESTS:
            self._troubled.append(sent.id)


def _add(group: Group, wave: Wave) -> None:
    group.samples += wave.samples
    group.outcomes += wave.outcomes
    group.seconds += wave.seconds
    group.waves += 1
