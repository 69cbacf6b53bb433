"""What tinker-cookbook is given: a configuration with our strategy and data set, and two functions in its modules.

A rollout strategy and a data set it takes by configuration. Two things it takes from nobody, so they are put in its
modules' places: the function that centres rewards, and the logger's method, to which figures are added.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import chz
import torch
from tinker_cookbook.rl import train
from tinker_cookbook.rl.rollout_strategy import RolloutStrategy
from tinker_cookbook.rl.types import RLDataset, RLDatasetBuilder
from tinker_cookbook.utils.ml_log import MultiplexLogger

from rollout_budget.integrations.shared import Verdict
from rollout_budget.integrations.tinker.desk import BudgetedGroup, Desk, Text
from rollout_budget.session import AsyncSession

STEPS = ("progress/batch", "training_client/step")
"""What tinker-cookbook logs once per training step, by its mode, and not with evaluations."""


class _Seat:
    """Holds the desk of the training in this process."""

    desk: Desk | None = None


def question_of(builder: Any) -> str | None:
    """Return the question of a builder of problems; None of other builders."""
    thunk = getattr(builder, "env_thunk", None)
    ask = None if thunk is None else getattr(thunk(), "get_question", None)
    return None if ask is None else str(ask())


def budgeted(
    config: Any, session: AsyncSession, *, outcome: str | None = None, key: Text | None = None, text: Text = question_of
) -> Any:
    """Return tinker-cookbook's configuration with our data set and strategy around its own.

    Args:
        config: `tinker_cookbook.rl.train.Config`.
        session: entered, on the loop that trains.
        outcome: metric of an environment's step that is the verifiable outcome; by default the steps' rewards.
        key: stable id of a builder's prompt; by default its place in the data set.
        text: what the prior service reads.
    """
    _Seat.desk = Desk(session, Verdict(session.spec.outcome_range, outcome), key or (lambda _: None), text)
    _install()
    strategy = BudgetedRollouts(config.effective_rollout_strategy())
    builder = BudgetedDatasetBuilder(inner=config.dataset_builder)
    return chz.replace(config, dataset_builder=builder, rollout_error_tolerance=strategy)


class BudgetedDataset(RLDataset):  # type: ignore[misc] # tinker-cookbook lives in another environment
    """A data set whose groups are named."""

    def __init__(self, inner: Any, desk: Desk) -> None:
        self._inner = inner
        self._desk = desk

    def get_batch(self, index: int) -> Sequence[BudgetedGroup]:
        """Return the batch; raise what a strategy that forgives errors has kept to itself.

        Raises:
            InvalidInput: an outcome lay outside the range that the run declares, or was not among the metrics.
        """
        return self._desk.named(self._inner.get_batch(index), index)

    def __len__(self) -> int:
        return len(self._inner)


@chz.chz
class BudgetedDatasetBuilder(RLDatasetBuilder):  # type: ignore[misc] # tinker-cookbook lives in another environment
    """Makes the data set; evaluations keep theirs."""

    inner: Any

    async def __call__(self) -> tuple[Any, Any]:
        """Return the data set for training, its groups named, and that for tests."""
        training, test = await self.inner()
        return (training if _Seat.desk is None else BudgetedDataset(training, _Seat.desk)), test


@dataclass(frozen=True)
class BudgetedRollouts(RolloutStrategy):  # type: ignore[misc] # tinker-cookbook lives in another environment
    """Draws named groups in waves, and all others by the strategy that it stands for, whose forgiveness it shares."""

    base: Any

    @property
    def catches_group_errors(self) -> bool:
        """Whether a group that fails is skipped."""
        return bool(self.base.catches_group_errors)

    async def execute(self, env_group_builder: Any, policy: Any) -> Any:
        """Return all rollouts of a group.

        Raises:
            AllTrajectoriesFailedError: there are none, for want of budget or since all failed; the group is skipped.
        """
        if _Seat.desk is None or not isinstance(env_group_builder, BudgetedGroup):
            return await self.base.execute(env_group_builder, policy)
        return await _Seat.desk.draw(env_group_builder, policy, self.base)


def _install() -> None:
    """Put ours in the places of the two functions, once."""
    if not hasattr(train.compute_advantages, "__wrapped__"):
        train.compute_advantages = _with_ours(train.compute_advantages)
        MultiplexLogger.log_metrics = _with_figures(MultiplexLogger.log_metrics)


def _with_ours(centre: Any) -> Any:
    """Return `compute_advantages` with ours for the groups that were drawn here."""

    @functools.wraps(centre)
    def computed(groups: list[Any]) -> list[torch.Tensor]:
        ours = [None if _Seat.desk is None else _Seat.desk.gains(group) for group in groups]
        return [
            centre([group])[0] if gains is None else torch.tensor(gains)
            for group, gains in zip(groups, ours, strict=True)
        ]

    return computed


def _with_figures(write: Any) -> Any:
    """Return `log_metrics` with `budget/...` beside the figures of a training step."""

    @functools.wraps(write)
    def written(self: Any, metrics: dict[str, Any], step: int | None = None) -> None:
        if _Seat.desk is not None and any(name in metrics for name in STEPS):
            metrics = {**metrics, **_Seat.desk.session.metrics()}
        write(self, metrics, step)

    return written
