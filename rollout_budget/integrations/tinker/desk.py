"""Groups of a training on tinker-cookbook: their names, their waves, and what each trajectory's advantage came to.

Owns the session's calls. Everything is on the loop that trains; other processes have no desk.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinker_cookbook.exceptions import AllTrajectoriesFailedError
from tinker_cookbook.rl import rollouts
from tinker_cookbook.rl.rollout_strategy import RolloutResult
from tinker_cookbook.rl.types import EnvGroupBuilder, RolloutError

from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.shared import Verdict, spread
from rollout_budget.session import AsyncSession, Group, Prompt

Text = Callable[[Any], str | None]
"""From a builder of tinker-cookbook's, a text."""


@dataclass
class BudgetedGroup(EnvGroupBuilder):  # type: ignore[misc] # tinker-cookbook lives in another environment
    """A builder with the name of its group; environments and group rewards are its own."""

    inner: Any
    prompt: Prompt
    step: int

    async def make_envs(self) -> Sequence[Any]:
        """See the builder."""
        envs: Sequence[Any] = await self.inner.make_envs()
        return envs

    async def compute_group_rewards(self, trajectory_group: list[Any], env_group: Sequence[Any]) -> list[Any]:
        """See the builder."""
        rewards: list[Any] = await self.inner.compute_group_rewards(trajectory_group, env_group)
        return rewards

    async def cleanup(self) -> None:
        """See the builder."""
        await self.inner.cleanup()

    def logging_tags(self) -> list[str]:
        """See the builder."""
        tags: list[str] = self.inner.logging_tags()
        return tags


@dataclass(slots=True)
class Found:
    """What a group has come to."""

    trajectories: list[Any] = field(default_factory=list)
    envs: list[Any] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    verified: list[bool] = field(default_factory=list)


class Desk:
    """Groups under way, versions of the policy, and the advantages of trajectories that live."""

    def __init__(self, session: AsyncSession, verdict: Verdict, key: Text, text: Text) -> None:
        self.session = session
        self._verdict, self._key, self._text = verdict, key, text
        self._fault: InvalidInput | None = None
        self._step: int | None = None
        self._first = 0
        self._versions: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._clients = 0
        self._gains: dict[int, tuple[float, float]] = {}

    def named(self, builders: Sequence[Any], index: int) -> list[BudgetedGroup]:
        """Return a batch's builders with ids of their groups: the number of the step and the place in it."""
        if self._fault is not None:
            raise self._fault
        if self._step is None:
            self._first, self._step = index, index
        else:
            self._step += 1
        prompts = [
            Prompt(self._key(one) or f"{index}-{place}", self._text(one), group=f"step{self._step}-{place}")
            for place, one in enumerate(builders)
        ]
        return [BudgetedGroup(one, prompt, self._step) for one, prompt in zip(builders, prompts, strict=True)]

    async def draw(self, builder: BudgetedGroup, policy: Any, base: Any) -> Any:
        """Return a group's rollouts, wave after wave; see `BudgetedRollouts.execute`."""
        (group,) = await self.session.open([builder.prompt], version=self._version(policy), step=builder.step)
        limit = getattr(base, "per_rollout_timeout", None) or None
        found, spare = Found(), list[Any]()
        try:
            while group.want:
                while len(spare) < group.want:
                    spare += await builder.make_envs()
                envs, spare = spare[: group.want], spare[group.want :]
                runs = (asyncio.wait_for(rollouts.do_single_rollout(policy, env), limit) for env in envs)
                drawn = await asyncio.gather(*runs, return_exceptions=True)
                self._take(group, found, envs, drawn)
                await self.session.observe([group])
                if found.errors and not base.catches_group_errors:
                    raise found.errors[0]
        except InvalidInput as error:
            self._fault = error
            raise
        finally:
            await asyncio.shield(self.session.close([group]))
        self._keep(group, found)
        errors = [RolloutError(type(error).__name__, str(error)) for error in found.errors]
        if not found.trajectories:
            why = f"its {len(errors)} rollouts failed" if errors else "the budget grants it none"
            raise AllTrajectoriesFailedError(f"group {group.id}: {why}")
        return RolloutResult(found.trajectories, found.envs, errors)

    def gains(self, group: Any) -> list[float] | None:
        """Return the advantages of a group; None where it was not drawn here.

        What its rewards have changed by since, as by a grader of whole groups, counts against the others' mean change.
        """
        known = [self._gains.get(id(one)) for one in group.trajectories_G]
        totals = group.get_total_rewards()
        if not all(known):
            return None
        pairs = [one for one in known if one is not None]
        late = [total - seen for total, (_, seen) in zip(totals, pairs, strict=True)]
        others = max(len(late) - 1, 1)
        centred = [one - (sum(late) - one) / others if len(late) > 1 else 0.0 for one in late]
        return [gain + one for (gain, _), one in zip(pairs, centred, strict=True)]

    def _version(self, policy: Any) -> int:
        """Return the version of the weights: distinct sampling clients so far, on from the first step's number."""
        client = getattr(policy, "sampling_client", policy)
        if client not in self._versions:
            self._versions[client] = self._first + self._clients
            self._clients += 1
        return self._versions[client]

    def _take(self, group: Group, found: Found, envs: Sequence[Any], drawn: Sequence[Any]) -> None:
        fine = [(env, one) for env, one in zip(envs, drawn, strict=True) if not isinstance(one, BaseException)]
        found.envs += [env for env, _ in fine]
        found.trajectories += [one for _, one in fine]
        found.errors += [one for one in drawn if isinstance(one, BaseException)]
        outcomes = [self._outcome(one) for _, one in fine]
        found.verified += [outcome is not None for outcome in outcomes]
        known = [
            (outcome, _reward(one)) for outcome, (_, one) in zip(outcomes, fine, strict=True) if outcome is not None
        ]
        tokens = sum(len(step.ac.tokens) for _, one in fine for step in one.transitions)
        group.add([one for one, _ in known], [one for _, one in known], lost=len(drawn) - len(known), tokens=tokens)

    def _outcome(self, trajectory: Any) -> float | None:
        """Return the outcome; None of a rollout that a limit has stopped before it had one."""
        told = {name: value for step in trajectory.transitions for name, value in step.metrics.items()}
        stopped = trajectory.stop_reason is not None and self._verdict.name not in told
        return self._verdict.of(None if stopped and self._verdict.name is not None else _reward(trajectory), told)

    def _keep(self, group: Group, found: Found) -> None:
        for one, gain in zip(found.trajectories, spread(group.advantages, found.verified), strict=True):
            self._gains[id(one)] = (gain, _reward(one))
            weakref.finalize(one, self._gains.pop, id(one), None)


def _reward(trajectory: Any) -> float:
    return float(sum(step.reward for step in trajectory.transitions))
