"""The load as a whole: teams and keys as an admin makes them, then five trainers at once until told to stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import uuid4

import numpy as np

from rollout_budget.client import AdminClient, Allocator, AllocatorClient, ResilientAllocator
from rollout_budget.demo.cast import LINES, TEAMS, TOP_UP, Line
from rollout_budget.demo.trainers import Tally, Trainer
from rollout_budget.errors import Conflict, InvalidInput, ServiceError, Unavailable
from rollout_budget.wire import KeyCreate, TeamCreate

KEY_LIFETIME_S = 7 * 86_400.0
"""Keys of the load end by themselves a week after its start."""
PATIENCE = 20
"""Steps without a grant before an admin gives a team more."""
SAY_EVERY_S = 10.0
START_S = 120.0
"""Longest wait at the start for an allocator that is starting too."""
ASK_EVERY_S = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much load.

    Args:
        url: where the allocator is.
        admin_key: an admin's key, for teams and keys.
        seconds: how long; None until it is cancelled.
        steps: steps of each run; None for no bound.
        pace: steps a second of each run, at most.
        seed: of all outcomes.
        stamp: part of every run id; made up when None.
    """

    url: str
    admin_key: str
    seconds: float | None = None
    steps: int | None = None
    pace: float = 0.5
    seed: int = 0
    stamp: str | None = None


async def run(plan: Plan, say: Say) -> Tally:
    """Run the load; return what its trainers drew. A service that goes away meanwhile stops nothing.

    Raises:
        ServiceError: teams and keys could not be made at the start.
    """
    tally = Tally()
    stamp = plan.stamp or time.strftime("%m%d-%H%M%S", time.gmtime())
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(AdminClient(plan.url, plan.admin_key))
        await _reached(admin, say)
        allocators = {team: await _joined(stack, plan, admin, team) for team in TEAMS}
        say(f"teams {', '.join(TEAMS)}; five runs, stamp {stamp}")
        async with asyncio.TaskGroup() as tasks:
            paced = [
                tasks.create_task(
                    _train(plan, admin, _trainer(allocators, plan, stamp, tally, index), LINES[index].team)
                )
                for index in range(len(LINES))
            ]
            telling = tasks.create_task(_tell(tally, say))
            await asyncio.wait(paced, timeout=plan.seconds)
            for task in (*paced, telling):
                task.cancel()
        for allocator in allocators.values():
            await allocator.flush()
    return tally


async def _reached(admin: AdminClient, say: Say) -> None:
    """Wait for the allocator to answer, as both may have been started by one command."""
    gives_up = time.monotonic() + START_S
    said = False
    while True:
        try:
            await admin.list_teams(limit=1)
        except Unavailable:
            if time.monotonic() > gives_up:
                raise
        else:
            return
        if not said:
            say("waiting for the allocator")
            said = True
        await asyncio.sleep(ASK_EVERY_S)


def _trainer(allocators: dict[str, ResilientAllocator], plan: Plan, stamp: str, tally: Tally, index: int) -> Trainer:
    line: Line = LINES[index]
    allocator: Allocator = allocators[line.team]
    return Trainer(allocator, line, stamp, np.random.default_rng([plan.seed, index]), tally)


async def _joined(stack: AsyncExitStack, plan: Plan, admin: AdminClient, team: str) -> ResilientAllocator:
    """Make a team where it is missing, and a key of this start; return its allocator."""
    try:
        await admin.create_team(TeamCreate(team=team, name=f"demo: {team}", limits=TEAMS[team]))
    except (Conflict, InvalidInput):
        await admin.show_team(team)  # it is there, with limits of its own by now
    key = await admin.create_key(
        KeyCreate(team=team, label="demo load", expires_in_s=KEY_LIFETIME_S), idempotency_key=str(uuid4())
    )
    return ResilientAllocator(await stack.enter_async_context(AllocatorClient(plan.url, key.token)))


async def _train(plan: Plan, admin: AdminClient, trainer: Trainer, team: str) -> None:
    """Step at the pace of the plan; a team that is out of rollouts gets more after a while."""
    idle, done = 0, 0
    while plan.steps is None or done < plan.steps:
        began = time.monotonic()
        idle = 0 if await trainer.step() else idle + 1
        done += 1
        if idle >= PATIENCE:
            await _top_up(admin, team)
            idle = 0
        await asyncio.sleep(max(0.0, 1.0 / plan.pace - (time.monotonic() - began)))


async def _top_up(admin: AdminClient, team: str) -> None:
    try:
        limits = (await admin.show_budget(team)).limits
        if limits.rollouts is not None:
            raised = limits.model_copy(update={"rollouts": limits.rollouts + TOP_UP})
            await admin.set_budget(team, raised, expected=limits)
    except (ServiceError, Conflict):
        return  # away, or somebody else was quicker: there will be another time


async def _tell(tally: Tally, say: Say) -> None:
    while True:
        await asyncio.sleep(SAY_EVERY_S)
        say(f"{tally.steps:,} steps, {sum(tally.rollouts.values()):,} rollouts, {sum(tally.groups.values()):,} groups")
