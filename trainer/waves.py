"""The rollouts of one training step: open groups, draw waves, grade, ask again, close.

Owns the order of calls and the overlap of groups; decides nothing: how many rollouts a group gets and what is subtracted
from them is the allocator's answer. Groups do not wait for each other. As soon as a wave is graded its group reports;
reports that come while a call to the allocator is under way gather and go with the next one.

A seed fixes which samples are drawn where the generator honours seeds, but not which reports share a call. Decisions of
one call are made from the same record of the prior, so baselines of two runs of one seed may differ a little.

Leases are long (`LEASE_S`) and reports renew them once an eighth is gone, so no heartbeat is sent. If `collect` is cancelled or raises,
its groups stay open until their leases end; calling it again with the same step and attempt opens the same groups.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rollout_budget.client.base import Allocator
from rollout_budget.wire import (
    MAX_GROUPS,
    CloseGroup,
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
from trainer.types import Generator, Problem, RolloutGroup, Sample, Sampling, Verifier

LEASE_S = 3600.0
"""How long grants are held without a report: far longer than any wave, short enough to return a dead trainer's."""
MAX_ID_CHARS = 200
"""Longest group id that the allocator takes."""


@dataclass(frozen=True, slots=True)
class StepStats:
    """What a step's rollouts cost.

    Attributes:
        groups: with at least one rollout; these are the groups that `collect` returns.
        refused: groups that got no rollout because the budget is gone.
        failed: groups given back because no server could generate for them.
        granted: rollouts granted over all waves.
        used: rollouts drawn, as committed at the close.
        saved: reference group size x groups - used; negative if more were drawn.
        extended: groups that drew more than their first wave.
        waves: waves drawn over all groups.
        tokens: sampled tokens.
        seconds: the whole step, on the clock.
        allocator_calls: calls to the allocator.
        longest_wait_s: longest time that a group waited for a decision.
        degraded: whether the prior or the allocator could not be used for some group.
        fallback: whether some decision was made in this process because the allocator was away.
        detail: why.
    """

    groups: int
    refused: int
    failed: int
    granted: int
    used: int
    saved: int
    extended: int
    waves: int
    tokens: int
    seconds: float
    allocator_calls: int
    longest_wait_s: float
    degraded: bool
    fallback: bool
    detail: str


@dataclass(slots=True)
class _Group:
    """One group under way."""

    problem: Problem
    opened: OpenedGroup
    prompt_ids: tuple[int, ...]
    samples: list[Sample]
    outcomes: list[float]
    granted: int
    waves: int = 0
    seconds: float = 0.0
    longest_wait_s: float = 0.0
    decision: Decision | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Everything that stays the same from step to step.

    Attributes:
        encode: prompt text to token ids.
        seed: of the run; each wave's own seed follows from it, the step, the prompt and the wave.
        reference_group_size: what savings are stated against.
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

    async def collect(
        self, problems: Sequence[Problem], *, step: int, version: int, attempt: int = 0
    ) -> tuple[list[RolloutGroup], StepStats]:
        """Return the finished groups of these problems, in their order, and what they cost.

        Args:
            problems: with distinct keys.
            step: part of every group's id.
            version: weight version to sample under, and the policy version that the allocator is told.
            attempt: raise it to draw a step anew whose groups were closed before.

        Raises:
            ValueError: two problems have the same key.
            RolloutBudgetError: the allocator refuses, or cannot be reached and has no fallback.
        """
        if len({problem.key for problem in problems}) < len(problems):
            raise ValueError("a step holds each problem once: two keys are equal")
        return await _Step(self, step, version, attempt).run(problems)


class _Step:
    """One call of `collect`."""

    def __init__(self, collector: Collector, step: int, version: int, attempt: int) -> None:
        self._of = collector
        self._step = step
        self._version = version
        self._attempt = attempt
        self._calls = 0
        self._notes: list[str] = []
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
        return self._finished(groups), self._stats(groups, used, time.monotonic() - began)

    async def _open(self, problems: Sequence[Problem]) -> list[_Group]:
        groups: list[_Group] = []
        for first in range(0, len(problems), MAX_GROUPS):
            chunk = problems[first : first + MAX_GROUPS]
            request = OpenRequest(groups=[self._open_group(problem) for problem in chunk], lease_s=self._of.lease_s)
            self._calls += 1
            answer = await self._of.allocator.open(self._of.run_id, request)
            if answer.degraded:
                self._notes.append(answer.detail or "the prior could not be used")
            groups += [self._group(problem, opened) for problem, opened in zip(chunk, answer.groups, strict=True)]
        return groups

    def _open_group(self, problem: Problem) -> OpenGroup:
        return OpenGroup(
            group_id=group_id(self._step, problem.key),
            attempt=self._attempt,
            prompt_key=problem.key,
            prompt=problem.prompt,
            policy_version=self._version,
            step=self._step,
        )

    def _group(self, problem: Problem, opened: OpenedGroup) -> _Group:
        ids = tuple(self._of.encode(problem.prompt))
        return _Group(problem, opened, prompt_ids=ids, samples=[], outcomes=[], granted=opened.grant)

    async def _draw(self, group: _Group) -> None:
        """Draw waves until the allocator says stop, or no server can."""
        more = group.opened.grant
        while more > 0:
            try:
                await self._wave(group, more)
            except GenerationFailed as error:
                group.failure = str(error)
                return
            asked = time.monotonic()
            group.decision = await self._observer.ask(
                ObserveGroup(group_id=group.opened.group_id, attempt=self._attempt, outcomes=list(group.outcomes))
            )
            group.longest_wait_s = max(group.longest_wait_s, time.monotonic() - asked)
            more = group.decision.more
            group.granted += more

    async def _wave(self, group: _Group, count: int) -> None:
        began = time.monotonic()
        samples = await self._of.generator.generate(
            group.prompt_ids,
            count=count,
            sampling=self._of.sampling,
            version=self._version,
            seed=wave_seed(self._of.seed, group.opened.group_id, self._attempt, group.waves),
        )
        group.seconds += time.monotonic() - began
        group.outcomes += await self._of.verifier.grade(group.problem, [sample.text for sample in samples])
        group.samples += samples
        group.waves += 1

    async def _observe(self, groups: list[ObserveGroup]) -> Sequence[Decision]:
        self._calls += 1
        return (await self._of.allocator.observe(self._of.run_id, ObserveRequest(groups=groups))).groups

    async def _close(self, groups: Sequence[_Group]) -> int:
        """Close all groups, normally in one call; return how many rollouts the allocator booked as drawn."""
        used = 0
        for first in range(0, len(groups), MAX_GROUPS):
            closes = [self._close_group(group) for group in groups[first : first + MAX_GROUPS]]
            self._calls += 1
            answer = await self._of.allocator.close(self._of.run_id, CloseRequest(groups=closes))
            used += sum(closed.committed + closed.overage for closed in answer.groups)
        return used

    def _close_group(self, group: _Group) -> CloseGroup:
        return CloseGroup(
            group_id=group.opened.group_id,
            attempt=self._attempt,
            used=len(group.samples),
            tokens=sum(len(sample.token_ids) for sample in group.samples),
            seconds=group.seconds,
            discard=not group.samples,
        )

    def _finished(self, groups: Sequence[_Group]) -> list[RolloutGroup]:
        """Return the groups with samples. One whose later wave failed keeps what it had, with its last decision."""
        return [
            RolloutGroup(
                group_id=group.opened.group_id,
                problem=group.problem,
                prompt_ids=group.prompt_ids,
                samples=tuple(group.samples),
                outcomes=tuple(group.outcomes),
                advantages=tuple(group.decision.advantages),
                baseline=group.decision.baseline,
                prior=group.opened.prior,
                first_wave=group.opened.grant,
                version=self._version,
            )
            for group in groups
            if group.decision is not None
        ]

    def _stats(self, groups: Sequence[_Group], used: int, seconds: float) -> StepStats:
        drawn = [group for group in groups if group.samples]
        fallback = any(group.decision is not None and group.decision.reason == "local_fallback" for group in groups)
        failures = list(dict.fromkeys(group.failure for group in groups if group.failure))
        return StepStats(
            groups=len(drawn),
            refused=sum(group.opened.grant == 0 for group in groups),
            failed=sum(bool(group.failure) for group in groups),
            granted=sum(group.granted for group in groups),
            used=used,
            saved=self._of.reference_group_size * len(drawn) - used,
            extended=sum(group.waves > 1 for group in groups),
            waves=sum(group.waves for group in groups),
            tokens=sum(len(sample.token_ids) for group in groups for sample in group.samples),
            seconds=seconds,
            allocator_calls=self._calls,
            longest_wait_s=max((group.longest_wait_s for group in groups), default=0.0),
            degraded=bool(self._notes) or fallback,
            fallback=fallback,
            detail="; ".join([*self._notes, *failures]),
        )


def group_id(step: int, key: str) -> str:
    """Return the id of a problem's group in a step: the same whenever that step is run, so that a resumed run meets it."""
    plain = f"{step}-{key}"
    return plain if len(plain) <= MAX_ID_CHARS else f"{step}-{hashlib.sha256(key.encode()).hexdigest()}"


def wave_seed(seed: int, group: str, attempt: int, wave: int) -> int:
    """Return a wave's own seed, in [0, 2^62): servers count up from it for its samples, so waves must lie far apart.

    The attempt is part of it. A step that is drawn anew after a restart draws other samples (the same ones at each
    repetition of that attempt), because the prior may have learned from the first ones: drawn again, they would meet a
    baseline that was fitted to their own outcomes. The ledger books both, as groups of two attempts.
    """
    digest = hashlib.sha256(f"{seed}/{group}/{attempt}/{wave}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2
