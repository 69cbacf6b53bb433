"""The one place of a training where groups are opened, reported and closed, for agent-loop workers in many processes.

Owns the session and the groups under way. Runs as an actor of Ray's, and just as well without; loads neither verl nor
PyTorch. Reports that come while a call is under way go out together in the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.shared import prompt_of
from rollout_budget.integrations.verl.settings import Settings, key_of
from rollout_budget.session import Group, Prompt

KEPT = 100_000
"""Groups whose advantages are kept until they are asked for; those that verl drops as stale never are."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout: its reward, further values of the reward function, tokens of its responses."""

    reward: float
    told: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 0


class Desk:
    """Draws up groups by verl's own uid.

    Args:
        algorithm: verl's section of that name, as plain values.
        url: of the allocator; None decides in this process.
        key: the team's.

    Raises:
        InvalidInput: a rule does not exist or is out of its bounds.
    """

    def __init__(self, algorithm: Mapping[str, Any], url: str | None = None, key: str | None = None) -> None:
        self._settings = Settings.of(algorithm)
        self._session = self._settings.session(url=url, key=key)
        if algorithm.get("use_kl_in_reward"):
            raise InvalidInput(
                "use_kl_in_reward=True changes rewards after groups are decided on: use actor.use_kl_loss"
            )
        if self._session.spec.advantage_samples != "all":
            raise InvalidInput('verl keeps no order of rollouts: leave advantage_samples at "all"')
        self._groups: dict[str, Group] = {}
        self._gains: dict[str, dict[float, float]] = {}
        self._told: list[Group] = []
        self._calling = asyncio.Lock()
        self._fault: str | None = None

    async def enter(self) -> None:
        """Declare the run; see `AsyncSession`."""
        await self._session.__aenter__()

    async def open(self, rows: Sequence[Mapping[str, Any]], version: int) -> None:
        """Open a group for each prompt; a uid that comes again, as after a restart, is a further attempt at its group.

        Args:
            rows: each with `uid` and `raw_prompt`, perhaps `data_source` and `extra_info`.
            version: of the weights, 0 or more.
        """
        prompts = [_prompt(row) for row in rows]
        for prompt, group in zip(prompts, await self._session.open(prompts, version=version), strict=True):
            self._gains.pop(str(prompt.group), None)
            self._groups[str(prompt.group)] = group

    async def first(self, uid: str) -> int:
        """Return how many rollouts a group begins with; 0 when the budget is gone."""
        want = self._groups[uid].want
        if not want:
            await self._settle([self._groups[uid]])
        return want

    async def report(self, uid: str, rollouts: Sequence[Rollout], lost: int) -> int:
        """Take a wave; return how many more are wanted. Without any the group is closed.

        Raises:
            InvalidInput: an outcome lies outside the declared range, or is not where it was said to be.
        """
        group = self._groups[uid]
        try:
            outcomes = [self._settings.outcome_of(one.reward, one.told) for one in rollouts]
            tokens = sum(one.tokens for one in rollouts)
            group.add(outcomes, [one.reward for one in rollouts], lost=lost, tokens=tokens)
        except InvalidInput as error:
            self._fault = str(error)
            raise
        self._told.append(group)
        async with self._calling:
            told, self._told = self._told, []
            if told:
                await self._session.observe(told)
                await self._settle([one for one in told if not one.want])
        return group.want

    async def advantages(self, uids: Sequence[str]) -> dict[str, dict[float, float]]:
        """Return, once, the advantages of groups that were drawn here: by uid, then by reward in single precision.

        Rollouts of one reward are one to verl, whose batches have no order; where they differ, they get the mean.

        Raises:
            InvalidInput: an outcome of the run was outside its range.
        """
        if self._fault is not None:
            raise InvalidInput(self._fault)
        return {uid: self._gains.pop(uid) for uid in uids if uid in self._gains}

    async def metrics(self) -> dict[str, float]:
        """See `AsyncSession`."""
        return self._session.metrics()

    async def leave(self) -> None:
        """Close what is open, and tell the service what it missed."""
        await self._settle(list(self._groups.values()))
        await self._session.__aexit__(None, None, None)

    async def _settle(self, groups: Sequence[Group]) -> None:
        await self._session.close(groups)
        for group in groups:
            uid = str(group.prompt.group)
            self._groups.pop(uid, None)
            self._gains[uid] = _by_reward(group)
        while len(self._gains) > KEPT:
            del self._gains[next(iter(self._gains))]


def _prompt(row: Mapping[str, Any]) -> Prompt:
    return prompt_of({"prompt": list(row["raw_prompt"]), "key": key_of(row)}, group=str(row["uid"]), key="key")


def _by_reward(group: Group) -> dict[float, float]:
    found: dict[float, list[float]] = {}
    for reward, gain in zip(group.rewards, group.advantages, strict=False):  # none of a group that was never reported
        found.setdefault(float(np.float32(reward)), []).append(gain)
    return {reward: sum(gains) / len(gains) for reward, gains in found.items()}
