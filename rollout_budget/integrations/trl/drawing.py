"""One group of the asynchronous trainer: the row it is for, what was drawn for it, and the samples it becomes.

Owns TRL's forms: how prompts, completions and rewards look to its reward functions and to its trainer.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

from rollout_budget.integrations.shared import Scores, outcome_place, spread
from rollout_budget.integrations.trl.completions import Completion
from rollout_budget.session import Group

RewardFunction = Callable[..., Any]
"""TRL's own form: keyword arguments prompts, completions, completion_ids and the row's columns, each a list; returns a
reward for each completion, None where it does not apply; may be asynchronous."""
TAKEN = frozenset({"prompt", "completion", "completion_ids"})
"""Columns that are not handed to reward functions, which get them otherwise."""


@dataclass(slots=True, eq=False)
class Drawing:
    """A group under way.

    Attributes:
        number: of the group, as TRL counts distinct ones.
        scores: one of each wave.
    """

    number: int
    row: Mapping[str, Any]
    prompt_ids: Sequence[int]
    group: Group
    completions: list[Completion] = field(default_factory=list)
    texts: list[Any] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)

    def take(self, completions: Sequence[Completion], texts: Sequence[Any], scores: Scores) -> None:
        """Add a wave.

        Raises:
            InvalidInput: an outcome lies outside the range that the run declares.
        """
        scores.add_to(self.group, tokens=sum(len(one.ids) for one in completions))
        self.completions += completions
        self.texts += texts
        self.scores.append(scores)

    def samples(self, names: Sequence[str]) -> list[RolloutSample]:
        """Return all rollouts as TRL's trainer takes them; `names` are those of the reward functions."""
        if not self.scores:
            return []
        table = np.concatenate([scores.table for scores in self.scores], axis=1)
        totals = np.concatenate([scores.totals for scores in self.scores])
        verified = np.concatenate([scores.verified for scores in self.scores]).tolist()
        known = totals[~np.isnan(totals)]
        common = {"reward_std": float(known.std()) if known.size else float("nan")}
        return [
            RolloutSample(
                prompt=_messages(self.row["prompt"], "user"),
                completion=_messages(text, "assistant"),
                advantage=advantage,
                model_version=self.group.version,
                group_id=self.number,
                metrics={"reward": float(total), **common}
                | {f"rewards/{name}": float(reward) for name, reward in zip(names, rewards, strict=True)},
                **arrays(self.prompt_ids, completion),
            )
            for completion, text, advantage, total, rewards in zip(
                *(self.completions, self.texts, spread(self.group.advantages, verified), totals, table.T), strict=True
            )
        ]


class Rewarding:
    """The user's reward functions, called as TRL calls them; in threads, so that a slow one holds nothing up."""

    def __init__(self, functions: RewardFunction | Sequence[RewardFunction], outcome: str | None) -> None:
        self._functions = [functions] if callable(functions) else list(functions)
        self.names = [_name(function) for function in self._functions]
        self._outcome = outcome_place(self.names, outcome)

    async def score(self, row: Mapping[str, Any], texts: Sequence[Any], completions: Sequence[Completion]) -> Scores:
        """Return the rewards of completions of one row.

        Raises:
            ValueError: a function does not return one reward for each completion.
        """
        count = len(completions)
        given = {
            "prompts": [row["prompt"]] * count,
            "completions": list(texts),
            "completion_ids": [one.ids for one in completions],
            **{name: [value] * count for name, value in row.items() if name not in TAKEN},
        }
        columns = await asyncio.gather(*(_called(function, given) for function in self._functions))
        for name, column in zip(self.names, columns, strict=True):
            if len(column) != count:
                raise ValueError(f"reward function {name!r} returned {len(column)} rewards for {count} completions")
        table = np.array([[np.nan if one is None else one for one in column] for column in columns], dtype=np.float64)
        return Scores(table, self._outcome, np.ones(len(columns)))


async def _called(function: RewardFunction, given: Mapping[str, Any]) -> Sequence[float | None]:
    answer = await asyncio.to_thread(function, **given)
    if inspect.isawaitable(answer):
        answer = await answer
    rewards: Sequence[float | None] = answer
    return rewards


def _name(function: RewardFunction) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _messages(value: Any, role: str) -> Any:
    """Return a prompt or completion as messages, which TRL's samples hold."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def arrays(prompt: Sequence[int], completion: Completion) -> dict[str, Any]:
    """Return token ids, mask of what is trained, and log-probabilities, each (prompt + completion,)."""
    before, after = len(prompt), len(completion.ids)
    return {
        "input_ids": np.array([*prompt, *completion.ids], dtype=np.int64),
        "completion_mask": np.array([0] * before + [1] * after, dtype=np.int64),
        "old_log_probs": np.array([0.0] * before + completion.log_probs, dtype=np.float32),
    }
