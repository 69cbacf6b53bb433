"""What stands under `algorithm.rollout_budget` in verl's configuration, and how its rewards become outcomes.

Owns no call to any service, and knows nothing of verl's own types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from rollout_budget.errors import InvalidInput
from rollout_budget.session import AsyncSession, Session
from rollout_budget.wire import Range

SECTION = "rollout_budget"
VERIFIED = "acc"
"""What verl's reward managers call the verifiable part of a reward, or all of it where a function returns one number."""
KEY_CHARS = 200
"""Longest key that the allocator takes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The declared run.

    Attributes:
        run: id of the run.
        rules: further fields of its declaration, `policy` among them.
        outcome: which value of the reward function's dictionary is the outcome; by default `acc`, else the reward.
        above: rewards above it are the outcome `high`, all others `low`; in place of `outcome`.
    """

    run: str
    rules: Mapping[str, Any] = field(default_factory=dict)
    outcome: str | None = None
    above: float | None = None

    @classmethod
    def of(cls, algorithm: Mapping[str, Any]) -> Self:
        """Return what verl's section `algorithm` declares, as plain values.

        Raises:
            InvalidInput: the run has no name, or the settings contradict one another.
        """
        given = dict(algorithm.get(SECTION) or {})
        if not given.get("run"):
            raise InvalidInput(f"verl's configuration names no run: add +algorithm.{SECTION}.run=NAME")
        own = {name: given.pop(name, None) for name in ("run", "outcome", "outcome_above")}
        if own["outcome"] is not None and own["outcome_above"] is not None:
            raise InvalidInput(f"algorithm.{SECTION}: give outcome or outcome_above, not both")
        if algorithm.get("use_kl_in_reward") and own["outcome_above"] is None:
            raise InvalidInput(
                "algorithm.use_kl_in_reward=True mixes a penalty into the rewards, from which the outcome cannot be told: "
                "set it to False, and actor_rollout_ref.actor.use_kl_loss=True for the same pull"
            )
        above = own["outcome_above"]
        return cls(str(own["run"]), given, own["outcome"], None if above is None else float(above))

    def session(self, **more: Any) -> AsyncSession:
        """Return a session for this run; `more` yields to what was declared."""
        return AsyncSession(self.run, **{**more, **self.rules})

    def blocking(self, **more: Any) -> Session:
        """Return the same for code without `await`."""
        return Session(self.run, **{**more, **self.rules})

    def outcome_of(self, reward: float, told: Mapping[str, Any]) -> float:
        """Return the outcome of one rollout.

        Args:
            reward: what the loss uses.
            told: what the reward function returned besides, as far as verl hands it on; truth values become the ends
                of the range, numbers stay.

        Raises:
            InvalidInput: the value that was named is not there, or no number.
        """
        if self.above is not None:
            return self._end(good=reward > self.above)
        if self.outcome is not None and self.outcome not in told:
            known = ", ".join(sorted(told)) or "nothing"
            raise InvalidInput(
                f"algorithm.{SECTION}.outcome={self.outcome}: the reward function's values have no such name ({known}); "
                "without our agent-loop manager verl hands on none, so set outcome_above there"
            )
        value = np.asarray(told.get(self.outcome or VERIFIED, reward)).item()
        if isinstance(value, bool):
            return self._end(good=value)
        if not isinstance(value, (int, float)):
            raise InvalidInput(f"the outcome {value!r} is no number: name another with algorithm.{SECTION}.outcome")
        return float(value)

    def _end(self, *, good: bool) -> float:
        declared = Range.model_validate(self.rules.get("outcome_range") or {})
        return declared.high if good else declared.low


def key_of(row: Mapping[str, Any]) -> str | None:
    """Return a stable id of a prompt: data set, part and `extra_info.index`; None without an index, or if it is too long."""
    known = row.get("extra_info") or {}
    if known.get("index") is None:
        return None
    parts = (row.get("data_source"), known.get("split"), known["index"])
    key = "/".join(str(part) for part in parts if part is not None)
    return key if len(key) <= KEY_CHARS else None
