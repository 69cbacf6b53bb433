"""A trainer: opens groups, draws, observes, closes, step after step, on the project's own client; may be killed.

Owns what was really drawn, which no allocator can know. A trainer never stops because of us (G22): any error out of a
call of a step is a violation, and so is a call that takes longer than `PATIENCE_S`. The one exception is a run that an
operator has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from random import Random
from typing import TypeVar

from rollout_budget.client import AllocatorClient, Breaker, ResilientAllocator
from rollout_budget.client.journal import Key
from rollout_budget.errors import RolloutBudgetError, RunFinished
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    PlanCandidate,
    PlanRequest,
    RunSpec,
)
from tests.simulation.account import Account
from tests.simulation.account import Group as GroupName
from tests.simulation.network import Line, Network
from tests.simulation.weather import Weather

A = TypeVar("A")

PATIENCE_S = 400.0
"""Longest that one call may take: the deadlines of a call and of what it tells first, in series."""
PROMPTS = 12


class Trainer:
    """One run of one team, over the lives of its processes.

    Attributes:
        rollouts: outcomes drawn, by group of the process that lives now.
        reported: groups that were closed by a process that lived on until the end.
        ended: an operator has finished the run.
        hangs_s: how long the next generation takes beyond its time.
    """

    def __init__(self, team: str, run: str, network: Network, weather: Weather, account: Account) -> None:
        self.team, self.run = team, run
        self._network, self._weather, self._account = network, weather, account
        self._random: Random = weather.random
        self.spec = RunSpec(
            run_id=run,
            policy=f"policy-{run[-1]}",
            prior_model=self._random.choice(("history", "running_mean")),
            k_init=self._random.choice((2, 4, "auto")),
            k_max=12,
            price=self._random.choice((0.0005, 0.004)),
        )
        self.lanes = self._random.randint(1, 2)
        self.plans = self._random.random() < 0.5
        self.clock_offset_s = self._random.choice((0.0, 86_400.0, -86_400.0))
        self.step = self.life = self.steps_done = 0
        self.hangs_s = 0.0
        self.ended = False
        self.reported: set[GroupName] = set()
        self._closing: set[GroupName] = set()
        self.rebirth()

    def rebirth(self) -> None:
        """A new process: everything that was in memory is gone, and the last step is taken again."""
        self.life += 1
        self.step = max(self.step - 1, 0)
        self._closing = set()
        self.rollouts: dict[GroupName, list[float]] = {}
        self._client = AllocatorClient("http://allocator.test", self.team, transport=Line(self._network, self.team))
        self.allocator = ResilientAllocator(
            self._client,
            notify=lambda notice: self._network.step(f"{self.run} {notice.kind}: {notice.detail}"),
            breaker=Breaker(),
            clock=self.clock,
        )

    def clock(self) -> float:
        """This machine's own monotonic clock, whatever the others say."""
        return self._account.now() + self.clock_offset_s

    async def live(self) -> None:
        """Train until the storm is over, then finish the run and report everything."""
        try:
            await self._call(self.allocator.create_run(self.spec))
            await asyncio.gather(*(self._lane() for _ in range(self.lanes)))
            await self._call(self.allocator.finish_run(self.run))
            while not await self._call(self.allocator.flush()):  # noqa: ASYNC110  a service that is back gives no signal
                await asyncio.sleep(1.0)
        except RolloutBudgetError as error:
            self._account.broken("G22", f"{self.team} {self.run} was stopped by {type(error).__name__}: {error}")
        refused = self.allocator._journal.run(self.run).refused
        self.reported = {
            group for group in self._closing if not any(_name(self.team, self.run, key) == group for key in refused)
        }

    async def _lane(self) -> None:
        while not (self._weather.calm or self.ended):
            try:
                await self._train_step()
            except RunFinished:
                if not self.ended:
                    raise

    async def _train_step(self) -> None:
        self.step += 1
        step, lease_s = self.step, self._weather.lease_s
        prompts = [f"p{self._random.randrange(PROMPTS)}" for _ in range(self._random.randint(1, 4))]
        plan_id = None
        if self.plans:
            plan_id = f"plan-{self.life}-{step}"
            candidates = [PlanCandidate(prompt_key=f"p{number}") for number in range(PROMPTS)]
            request = PlanRequest(plan_id=plan_id, candidates=candidates, groups=len(prompts))
            prompts = [one.prompt_key for one in (await self._call(self.allocator.plan(self.run, request))).prompts]
        opening = [
            OpenGroup(
                group_id=f"s{step}g{place}",
                attempt=self.life,
                prompt_key=prompt,
                policy_version=step,
                step=step,
                plan_id=plan_id,
            )
            for place, prompt in enumerate(prompts)
        ]
        for group in opening:
            self._account.mint(self._named(group.group_id))
        opened = await self._call(self.allocator.open(self.run, OpenRequest(groups=opening, lease_s=lease_s)))
        for answer in opened.groups:
            self._draw(answer.group_id, answer.grant)
        await self._waves([group.group_id for group in opening])
        await self._end([group.group_id for group in opening])
        self.steps_done += 1

    async def _waves(self, going: list[str]) -> None:
        going = [name for name in going if self._outcomes(name)]
        while going:
            hangs_s, self.hangs_s = self.hangs_s, 0.0
            await asyncio.sleep(hangs_s + self._random.expovariate(1.0) * self._random.choice((0.5, 5.0, 60.0)))
            if self._random.random() < 0.1:
                await self._call(self.allocator.heartbeat(self.run))
            groups = [ObserveGroup(group_id=n, attempt=self.life, outcomes=list(self._outcomes(n))) for n in going]
            answer = await self._call(self.allocator.observe(self.run, ObserveRequest(groups=groups)))
            for decision in answer.groups:
                self._draw(decision.group_id, decision.more)
            going = [decision.group_id for decision in answer.groups if decision.more]

    async def _end(self, names: list[str]) -> None:
        """Close the groups; at times with more drawn than was granted, at times not at all."""
        closing = []
        for name in names:
            if self._random.random() < 0.05:
                continue
            if self._random.random() < 0.05:
                self._draw(name, 2)
            outcomes = self._outcomes(name)
            closing.append(CloseGroup(group_id=name, attempt=self.life, used=len(outcomes), outcomes=list(outcomes)))
            self._closing.add(self._named(name))
        if closing:
            await self._call(self.allocator.close(self.run, CloseRequest(groups=closing)))

    async def _call(self, call: Awaitable[A]) -> A:
        began = self._account.now()
        answer = await call
        if (took := self._account.now() - began) > PATIENCE_S:
            self._account.broken("G22", f"a call of {self.team} {self.run} took {took:.0f} s")
        return answer

    def _draw(self, name: str, rollouts: int) -> None:
        drawn = [float(self._random.random() < 0.4) for _ in range(rollouts)]
        self.rollouts.setdefault(self._named(name), []).extend(drawn)
        self._account.drew(self._named(name), rollouts)

    def _outcomes(self, name: str) -> list[float]:
        return self.rollouts.get(self._named(name), [])

    def _named(self, name: str) -> GroupName:
        return self.team, f"{self.run}/{name}/{self.life}"


def _name(team: str, run: str, key: Key) -> GroupName:
    return team, f"{run}/{key.group_id}/{key.attempt}"
