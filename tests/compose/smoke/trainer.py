"""A short training client against the stack: opens, draws, observes and closes groups, and counts what it draws.

Outcomes are simulated; everything else is the SDK's own, as a trainer uses it. It goes on while services restart, deciding
by itself meanwhile, and settles at the end.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass, field

from rollout_budget.client import AllocatorClient, ResilientAllocator
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    RunSpec,
)

RUN = "smoke"
PROMPT = "What is six times seven, said the canary?"
"""Part of every prompt: no log may show it."""
GROUPS = 8
PACE_S = 0.2
"""Shortest time between two steps: a trainer is no load test."""
SETTLE_S = 60.0
"""Longest wait for the allocator to hear of everything, after the last step."""


@dataclass(slots=True)
class Tally:
    """What was drawn, by the client's own count."""

    steps: int = 0
    rollouts: int = 0
    groups: int = 0
    served: int = 0
    alone: int = 0
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def more(self, steps: int) -> None:
        """Wait until so many more steps were served by the allocator, without falling back."""
        goal = self.served + steps
        async with self.moved:
            await self.moved.wait_for(lambda: self.served >= goal)


async def train(url: str, key: str, stop: asyncio.Event, tally: Tally) -> None:
    """Take steps until told to stop, then settle and finish the run.

    Raises:
        TimeoutError: the allocator did not hear of everything in time.
    """
    chance = random.Random(7)  # noqa: S311  outcomes, no secret
    async with AllocatorClient(url, key) as client:
        allocator = ResilientAllocator(client)
        await allocator.create_run(RunSpec(run_id=RUN, policy="smoke-1b"))
        for step in itertools.count(1):
            before = allocator.fallback_total
            await _step(allocator, step, chance, tally)
            async with tally.moved:
                tally.steps = step
                tally.alone += allocator.fallback_total > before
                tally.served += allocator.fallback_total == before
                tally.moved.notify_all()
            if stop.is_set():
                break
            await asyncio.sleep(PACE_S)
        async with asyncio.timeout(SETTLE_S):
            for _ in itertools.count():
                if await allocator.flush():
                    break
                await asyncio.sleep(PACE_S)
        await allocator.finish_run(RUN)


async def _step(allocator: ResilientAllocator, step: int, chance: random.Random, tally: Tally) -> None:
    names = [f"step{step}-{index}" for index in range(GROUPS)]
    asked = [OpenGroup(group_id=name, prompt_key=name, prompt=f"{PROMPT} ({name})", step=step) for name in names]
    opened = await allocator.open(RUN, OpenRequest(groups=asked))
    grants = {group.group_id: group.grant for group in opened.groups if group.grant}
    outcomes: dict[str, list[float]] = {name: [] for name in grants}
    while grants:
        for name, more in grants.items():
            outcomes[name] += [float(chance.random() < 0.4) for _ in range(more)]
        answer = await allocator.observe(
            RUN, ObserveRequest(groups=[ObserveGroup(group_id=name, outcomes=outcomes[name]) for name in grants])
        )
        grants = {one.group_id: one.more for one in answer.groups if one.action == "more" and one.more}
    closing = [CloseGroup(group_id=name, used=len(drawn), tokens=10 * len(drawn)) for name, drawn in outcomes.items()]
    await allocator.close(RUN, CloseRequest(groups=closing))
    tally.rollouts += sum(map(len, outcomes.values()))
    tally.groups += len(outcomes)
