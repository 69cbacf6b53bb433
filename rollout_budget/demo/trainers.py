"""A simulated trainer: what any third-party trainer does with the allocator, step after step.

Owns the order of calls of a step. Waits and pace are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import numpy as np

from rollout_budget.client import Allocator
from rollout_budget.demo.cast import Line
from rollout_budget.demo.policy import TOKENS_PER_GPU_S, Policy
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    RunSpec,
)

LEASE_S = 60.0
"""Long against a step, short enough that what was forgotten is seen to expire."""
FORGOTTEN = 0.002
"""Share of groups that are never closed, as by a worker that died."""


@dataclass(slots=True)
class Tally:
    """Rollouts drawn and groups closed by all trainers of the load, by run."""

    rollouts: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    steps: int = 0

    def add(self, run: str, rollouts: int, groups: int) -> None:
        """Count a step."""
        self.rollouts[run] = self.rollouts.get(run, 0) + rollouts
        self.groups[run] = self.groups.get(run, 0) + groups
        self.steps += 1


class Trainer:
    """One line of runs: a run of `line.steps` steps, then the next.

    Args:
        allocator: the team's.
        line: which runs.
        stamp: part of every run id, so that a later start makes runs of its own.
        chance: where outcomes come from.
        tally: where what was drawn is counted.
    """

    def __init__(self, allocator: Allocator, line: Line, stamp: str, chance: np.random.Generator, tally: Tally) -> None:
        self._allocator = allocator
        self._line = line
        self._stamp = stamp
        self._chance = chance
        self._tally = tally
        self._numbers = count(1)
        self._spec: RunSpec | None = None
        self._policy = self._fresh()

    async def step(self) -> int:
        """Take one training step; return the rollouts that it drew, 0 where the budget is gone."""
        if self._spec is None:
            run_id = f"{self._line.spec.run_id}-{self._stamp}-{next(self._numbers)}"
            self._spec = self._line.spec.model_copy(update={"run_id": run_id})
            await self._allocator.create_run(self._spec)
        drawn = await self._draw(self._spec.run_id)
        if self._policy.version >= self._line.steps:
            await self._allocator.finish_run(self._spec.run_id)
            self._spec, self._policy = None, self._fresh()
        return drawn

    async def _draw(self, run: str) -> int:
        policy = self._policy
        prompts = {f"step{policy.version}-{prompt}": prompt for prompt in policy.choose(self._line.groups)}
        opened = await self._allocator.open(
            run, OpenRequest(groups=[self._asked(name, prompt) for name, prompt in prompts.items()], lease_s=LEASE_S)
        )
        grants = {group.group_id: group.grant for group in opened.groups if group.grant}
        outcomes: dict[str, list[float]] = {name: [] for name in grants}
        while grants:
            for name, more in grants.items():
                outcomes[name] += policy.draw(prompts[name], more)
            asked = [ObserveGroup(group_id=name, outcomes=outcomes[name]) for name in grants]
            answer = await self._allocator.observe(run, ObserveRequest(groups=asked))
            grants = {one.group_id: one.more for one in answer.groups if one.action == "more" and one.more}
        if outcomes:
            policy.learn([prompts[name] for name in outcomes])
            await self._close(run, outcomes)
        return sum(len(drawn) for drawn in outcomes.values())

    async def _close(self, run: str, outcomes: dict[str, list[float]]) -> None:
        kept = {name: drawn for name, drawn in outcomes.items() if self._chance.random() >= FORGOTTEN}
        closing = []
        for name, drawn in kept.items():
            tokens = self._policy.tokens(len(drawn))
            seconds = tokens / TOKENS_PER_GPU_S
            closing.append(CloseGroup(group_id=name, used=len(drawn), tokens=tokens, seconds=seconds))
        if closing:
            await self._allocator.close(run, CloseRequest(groups=closing))
        self._tally.add(run, sum(map(len, kept.values())), len(kept))

    def _asked(self, name: str, prompt: int) -> OpenGroup:
        key = f"{self._line.spec.policy}/{prompt}"
        text = f"Task {prompt} of {self._line.spec.policy}, level {self._policy.level(prompt)}"
        version = self._policy.version
        return OpenGroup(group_id=name, prompt_key=key, prompt=text, policy_version=version, step=version)

    def _fresh(self) -> Policy:
        return Policy(prompts=self._line.recurring, hardness=self._line.hardness, chance=self._chance)
