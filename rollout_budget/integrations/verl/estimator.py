"""verl's advantage estimator `rollout_budget`: one call per batch, joined by uid.

Owns the choice of who knows the advantages. Groups that our agent-loop manager drew are known to its desk; all others
are reported here, at the size that verl gave them. The budget's figures go into verl's log with those of the step.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from verl.utils.skip import SkipManager
from verl.utils.tracking import Tracking

from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.shared import spread
from rollout_budget.integrations.verl.settings import Settings, key_of
from rollout_budget.session import Drawn, Prompt, Session

log = logging.getLogger(__name__)

STEP = "training/global_step"
"""Metric that verl logs once per training step, and not with validations."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rollouts as verl hands them over, in its order.

    Attributes:
        uids: of their groups.
        rewards: summed over tokens.
        told: what the reward function returned besides; empty in verl 0.9.1, which hands on none of it.
        rows: places of each group's rollouts; those without a token of the policy's, which pad a batch, are in none.
    """

    uids: Sequence[str]
    rewards: Sequence[float]
    told: Sequence[Mapping[str, Any]]
    rows: Mapping[str, Sequence[int]]


class Books(Protocol):
    """Knows advantages and figures."""

    def advantages(self, batch: Batch) -> list[float]:
        """Return one per rollout, in the batch's order; 0 for those that are in no group."""

    def metrics(self) -> dict[str, float]:
        """Return `budget/...` since the last reading."""

    def leave(self) -> None:
        """End the session."""


class Scored:
    """Books of groups at verl's own size; sizes that the run does not declare are those of the first batch's largest."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None
        self._calls = 0

    def advantages(self, batch: Batch) -> list[float]:
        """See `Books`."""
        if self._session is None:
            size = max((len(rows) for rows in batch.rows.values()), default=1)
            self._session = self._settings.blocking(k_init=size, k_max=size, stopping="fixed").__enter__()
        drawn = [self._drawn(batch, uid, rows) for uid, rows in batch.rows.items()]
        groups = self._session.score(drawn, version=self._version())
        gains = [0.0] * len(batch.uids)
        for group, rows in zip(groups, batch.rows.values(), strict=True):
            for row, gain in zip(rows, spread(group.advantages, [True] * len(rows)), strict=True):
                gains[row] = gain
        return gains

    def metrics(self) -> dict[str, float]:
        """See `Books`."""
        return {} if self._session is None else self._session.metrics()

    def leave(self) -> None:
        """See `Books`."""
        if self._session is not None:
            self._session.__exit__(None, None, None)
            self._session = None

    def _drawn(self, batch: Batch, uid: str, rows: Sequence[int]) -> Drawn:
        outcomes = [self._settings.outcome_of(batch.rewards[row], batch.told[row]) for row in rows]
        key = key_of(batch.told[rows[0]]) or uid
        return Drawn(Prompt(key, group=uid), outcomes, [batch.rewards[row] for row in rows])

    def _version(self) -> int:
        """Return the version of the weights: steps done, by verl's own count, or by batches where it keeps none."""
        self._calls += 1
        step = SkipManager.step if SkipManager.step > 0 else self._calls
        return step - 1


class _Seat:
    """Holds this process's books, and which of verl's logs has their figures."""

    books: Books | None = None
    log: int | None = None


def keep(books: Books) -> None:
    """Make these the books that the estimator asks; figures go into verl's log from now on."""
    _Seat.books = books
    if not hasattr(Tracking.log, "__wrapped__"):
        Tracking.log, Tracking.finish = _with_figures(Tracking.log), _with_leave(Tracking.finish)


def estimate(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Any] | None = None,
    config: Mapping[str, Any] | None = None,
    non_tensor_batch: Mapping[str, Sequence[Any]] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages and returns, both (rollouts, response tokens): of each rollout the same for all its tokens.

    Args:
        token_level_rewards: (rollouts, response tokens).
        response_mask: the same shape; 1 for the policy's own tokens.
        index: uid of each rollout's group.
        config: verl's section `algorithm`.
        non_tensor_batch: columns of the batch, from versions of verl that pass them.

    Raises:
        InvalidInput: on a fault of the declaration, or an outcome outside its range.
    """
    if index is None:
        raise InvalidInput("verl gave no uid: the estimator rollout_budget needs one for each rollout")
    if _Seat.books is None:
        keep(Scored(Settings.of(config or {})))
    assert _Seat.books is not None  # noqa: S101 - kept above
    columns = non_tensor_batch or {}
    told = [{name: column[row] for name, column in columns.items()} for row in range(len(index))]
    gains = _Seat.books.advantages(_batch([str(uid) for uid in index], token_level_rewards, response_mask, told))
    of_rollouts = torch.tensor(gains, dtype=token_level_rewards.dtype, device=token_level_rewards.device)
    advantages = of_rollouts.unsqueeze(-1) * response_mask
    return advantages, advantages


def _batch(uids: Sequence[str], rewards: torch.Tensor, mask: torch.Tensor, told: Sequence[Mapping[str, Any]]) -> Batch:
    rows: dict[str, list[int]] = {}
    for row, real in enumerate(mask.bool().any(dim=-1).tolist()):
        if real:
            rows.setdefault(uids[row], []).append(row)
    return Batch(uids, rewards.sum(dim=-1).tolist(), told, rows)


def _with_figures(write: Any) -> Any:
    """Return `Tracking.log` with the budget's figures beside those of a training step."""

    @functools.wraps(write)
    def written(self: Any, data: dict[str, Any], step: int, backend: Any = None) -> None:
        more: dict[str, float] = {}
        if _Seat.books is not None and STEP in data:
            _Seat.log = id(self)
            try:
                more = _Seat.books.metrics()
            except Exception as error:  # noqa: BLE001 - a figure that is missing ends no training
                log.warning("no budget figures for step %s: %s", step, error)
        write(self, {**data, **more}, step, backend)

    return written


def _with_leave(finish: Any) -> Any:
    """Return `Tracking.finish` with the end of the session before it, if it is the end of the training's log."""

    @functools.wraps(finish)
    def finished(self: Any, *args: Any, **more: Any) -> None:
        if _Seat.books is not None and _Seat.log == id(self):
            books, _Seat.books = _Seat.books, None
            try:
                books.leave()
            except Exception as error:  # noqa: BLE001 - the training is over
                log.warning("the end of the run could not be told: %s", error)
        finish(self, *args, **more)

    return finished
