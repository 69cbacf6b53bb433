"""What integrations have in common: names and texts of prompts, and rewards with the one that is the outcome.

Owns no call to any service: that is the session's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout_budget.errors import InvalidInput
from rollout_budget.session import Group, Prompt
from rollout_budget.wire import Range

KEY_CHARS = 32
"""Of a hash as a prompt's key: 128 bits, so that two prompts of a data set never share one."""


def prompt_of(row: Mapping[str, Any], *, group: str, key: str | None) -> Prompt:
    """Return the prompt of a data-set row with a column `prompt`, a text or a list of messages.

    Args:
        row: of the data set.
        group: the trainer's own id of the group, unique within the run.
        key: column with a stable id of the prompt; without it the key is a hash of the prompt.
    """
    value = row["prompt"]
    named = None if key is None else row.get(key)
    if named is None:
        written = json.dumps(value, sort_keys=True, ensure_ascii=False)
        named = hashlib.sha256(written.encode()).hexdigest()[:KEY_CHARS]
    return Prompt(str(named), prompt_text(value), group=group)


def prompt_text(value: str | Sequence[Mapping[str, Any]]) -> str:
    """Return what the prior service reads: the text, or the messages' texts one below the other."""
    if isinstance(value, str):
        return value
    return "\n".join(_content(message["content"]) for message in value)


def _content(content: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a message; images and the like have none."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in content if "text" in part)


def outcome_place(names: Sequence[str], outcome: str | None) -> int:
    """Return which reward function is the verifiable outcome.

    Raises:
        InvalidInput: there is none of that name, or there are several and none was named.
    """
    if outcome is None and len(names) == 1:
        return 0
    if outcome is None or names.count(outcome) != 1:
        raise InvalidInput(f"outcome={outcome!r}: name one of the reward functions: {', '.join(names)}")
    return names.index(outcome)


@dataclass(frozen=True, slots=True)
class Scores:
    """Rewards of some rollouts of one prompt.

    Attributes:
        table: (functions, rollouts), NaN where a function does not apply.
        outcome: row that is the verifiable outcome.
        weights: (functions,), what each counts in the loss.
    """

    table: NDArray[np.float64]
    outcome: int
    weights: NDArray[np.float64]

    @property
    def verified(self) -> NDArray[np.bool_]:
        """(rollouts,): whether the outcome is known."""
        known: NDArray[np.bool_] = ~np.isnan(self.table[self.outcome])
        return known

    @property
    def totals(self) -> NDArray[np.float64]:
        """(rollouts,): weighted sum of the rewards that apply, NaN where none does; what the trainer logs as reward."""
        total = np.nansum(self.table * self.weights[:, None], axis=0)
        return np.where(np.isnan(self.table).all(axis=0), np.nan, total)

    @property
    def shaped(self) -> bool:
        """Whether the loss uses anything but the outcome."""
        return len(self.weights) > 1 or float(self.weights[0]) != 1.0

    def add_to(self, group: Group, *, tokens: int | None = None) -> None:
        """Add these rollouts to a group; those that cannot be verified as lost.

        Raises:
            InvalidInput: an outcome lies outside the range that the run declares.
        """
        verified = self.verified
        rewards = self.totals[verified].tolist() if self.shaped else None
        group.add(self.table[self.outcome][verified].tolist(), rewards, lost=int((~verified).sum()), tokens=tokens)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a trainer's one reward becomes the verifiable outcome.

    Attributes:
        scale: range of outcomes that the run declares.
        name: of the value beside the reward that is the outcome; None takes the reward itself.
        above: rewards above it are the outcome `high`, all others `low`; in place of `name`.
    """

    scale: Range
    name: str | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        """Refuse two rules at once.

        Raises:
            InvalidInput: both are given.
        """
        if self.name is not None and self.above is not None:
            raise InvalidInput("give outcome or outcome_above, not both")

    def of(self, reward: float | None, told: Mapping[str, Any]) -> float | None:
        """Return the outcome of one rollout; None where its reward is not known.

        Args:
            reward: what the loss uses.
            told: values beside it; truth values become the ends of the range, numbers stay.

        Raises:
            InvalidInput: the value that was named is not there.
        """
        if reward is None:
            return None
        if self.above is not None:
            return self._end(good=reward > self.above)
        if self.name is not None and self.name not in told:
            known = ", ".join(sorted(map(str, told))) or "nothing"
            raise InvalidInput(f"outcome={self.name!r} is not among the values of a rollout: {known}")
        value = reward if self.name is None else told[self.name]
        return self._end(good=bool(value)) if isinstance(value, (bool, np.bool_)) else float(value)

    def _end(self, *, good: bool) -> float:
        return self.scale.high if good else self.scale.low


def spread(advantages: Sequence[float], verified: Sequence[bool]) -> list[float]:
    """Return an advantage for each rollout, in the order drawn: 0 for those that were not verified or not decided on."""
    left = iter(advantages)
    return [next(left, 0.0) if known else 0.0 for known in verified]
