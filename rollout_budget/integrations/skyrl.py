"""SkyRL: the advantage estimator `rollout_budget` in its registry, and the callback that keeps its session and log.

    import rollout_budget.integrations.skyrl as budgeted  # before SkyRL checks its configuration
    trainer.add_callback(budgeted.Budget("my-run", policy="my-model"))  # where the trainer is made

Groups keep the size that SkyRL gives them, which may differ within a batch; they are joined by SkyRL's uid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from skyrl.backends.skyrl_train.utils.ppo_utils import AdvantageEstimatorRegistry, register_advantage_estimator
from skyrl.train.utils.callbacks import TrainingCallback

from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.shared import Verdict, prompt_of, spread
from rollout_budget.session import Drawn, Prompt, Session
from rollout_budget.wire import Range

NAME = "rollout_budget"
PAD = "pad"
"""SkyRL fills a batch up with copies of its first row at the end, under the uids pad0, pad1, ..."""
STEP = "trainer/global_step"
"""Figure that SkyRL logs once per training step, and not with the evaluation before the first."""


class Budget(TrainingCallback):  # type: ignore[misc] # SkyRL lives in another environment
    """A training's session. Declares the run when the training begins, ends the session when it ends.

    Args:
        run: id of the run.
        outcome_above: rewards above it are the outcome `high` of the range, all others `low`; None takes the reward.
        prompt_key: column of the data set with a stable id of the prompt; by default a hash of the prompt.
        rules: as for `rb.Session`; groups have SkyRL's `n_samples_per_prompt` unless said otherwise.
    """

    def __init__(
        self, run: str, *, outcome_above: float | None = None, prompt_key: str | None = None, **rules: Any
    ) -> None:
        self._run = run
        self._above = outcome_above
        self._key = prompt_key
        self._rules = rules
        self._trainer: Any = None
        self._session: Session | None = None
        self._verdict = Verdict(Range(), above=outcome_above)

    def on_train_start(self, trainer: Any, callback_input: Any, control: Any) -> None:  # noqa: ARG002 - its signature
        """Declare the run.

        Raises:
            InvalidInput: a rule does not exist or is out of its bounds, or outcomes cannot be told from rewards.
            Unauthorized: the team's key is not good.
        """
        if trainer.cfg.trainer.algorithm.use_kl_in_reward and self._above is None:
            raise InvalidInput(
                "trainer.algorithm.use_kl_in_reward=true mixes a penalty into the rewards, from which the outcome cannot "
                "be told: set it to false and use_kl_loss=true, or give outcome_above"
            )
        size = int(trainer.cfg.generator.n_samples_per_prompt)
        rules = {"k_init": size, "k_max": size, "stopping": "fixed", **self._rules}
        self._trainer = trainer
        self._session = Session(self._run, **rules).__enter__()
        self._verdict = Verdict(self._session.spec.outcome_range, above=self._above)
        _Seat.budget = self

    def on_log(self, trainer: Any, callback_input: Any, control: Any) -> None:  # noqa: ARG002 - its signature
        """Add `budget/...` to the figures of a training step."""
        if self._session is not None and callback_input.logs is not None and STEP in callback_input.logs:
            callback_input.logs.update(self._session.metrics())

    def on_train_end(self, trainer: Any, callback_input: Any, control: Any) -> None:  # noqa: ARG002 - its signature
        """End the session."""
        session, self._session, _Seat.budget = self._session, None, None
        if session is not None:
            session.__exit__(None, None, None)

    def advantages(self, uids: Sequence[str], rewards: Sequence[float]) -> list[float]:
        """Report a batch; return the advantage of each rollout, 0 for those that fill it up.

        Raises:
            InvalidInput: an outcome lies outside the declared range, or the training has not begun.
        """
        if self._session is None:
            raise InvalidInput("the session of this training has ended")
        rows: dict[str, list[int]] = {}
        for row, uid in enumerate(uids[: len(uids) - _padding(uids)]):
            rows.setdefault(uid, []).append(row)
        step = int(self._trainer.global_step)
        drawn = [
            Drawn(
                self._prompt(uid, step),
                [self._outcome(rewards[row]) for row in places],
                [rewards[row] for row in places],
            )
            for uid, places in rows.items()
        ]
        gains = [0.0] * len(uids)
        groups = self._session.score(drawn, version=max(step - 1, 0), step=step)
        for group, places in zip(groups, rows.values(), strict=True):
            for row, gain in zip(places, spread(group.advantages, [True] * len(places)), strict=True):
                gains[row] = gain
        return gains

    def _outcome(self, reward: float) -> float:
        outcome = self._verdict.of(reward, {})
        return reward if outcome is None else outcome

    def _prompt(self, uid: str, step: int) -> Prompt:
        """Return the prompt of a uid, which to SkyRL is a row of its data set; of other data sets the uid alone."""
        group = f"step{step}-{uid}"
        data = getattr(self._trainer, "train_dataset", None)
        table, column = getattr(data, "dataframe", None), getattr(data, "prompt_key", "prompt")
        if table is None or not uid.isdecimal() or int(uid) >= len(table):
            return Prompt(uid, group=group)
        row = table[int(uid)]
        key = {} if self._key is None else {"key": row.get(self._key)}
        return prompt_of({"prompt": row[column], **key}, group=group, key="key")


class _Seat:
    """Holds the budget of the training in this process."""

    budget: Budget | None = None


def estimate(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Sequence[Any], **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages and returns, both (rollouts, response tokens): of each rollout the same for all its tokens.

    Args:
        token_level_rewards: (rollouts, response tokens).
        response_mask: the same shape.
        index: uid of each rollout's prompt.

    Raises:
        InvalidInput: there is no `Budget` among the trainer's callbacks, or an outcome lies outside its range.
    """
    if _Seat.budget is None:
        raise InvalidInput("SkyRL's trainer has no budget: trainer.add_callback(Budget(RUN)) before it trains")
    gains = _Seat.budget.advantages([str(uid) for uid in index], token_level_rewards.sum(dim=-1).tolist())
    each = torch.tensor(gains, dtype=token_level_rewards.dtype, device=token_level_rewards.device)
    advantages = each.unsqueeze(-1) * response_mask
    return advantages, advantages.clone()


def register() -> None:
    """Enter the estimator into SkyRL's registry; again does nothing."""
    if NAME not in AdvantageEstimatorRegistry.list_available():
        register_advantage_estimator(NAME)(estimate)


def _padding(uids: Sequence[str]) -> int:
    """Return how many rows at the end fill the batch up: the longest run of pad0, pad1, ... there."""
    last = uids[-1].removeprefix(PAD) if uids and uids[-1].startswith(PAD) else ""
    count = int(last) + 1 if last.isdecimal() else 0
    return count if list(uids[len(uids) - count :]) == [f"{PAD}{place}" for place in range(count)] else 0


register()
