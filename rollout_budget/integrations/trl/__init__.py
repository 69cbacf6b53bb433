"""TRL: a rollout worker for its asynchronous GRPO trainer, and its `GRPOTrainer` with our baselines.

`docs/integrations/trl.md` shows both. Each is loaded when it is first used, for one of TRL's trainers may be missing or
changed where the other is not: asynchronous GRPO is experimental in TRL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rollout_budget.integrations.trl.grpo import BudgetedGRPOTrainer
    from rollout_budget.integrations.trl.worker import BudgetedRolloutWorker

__all__ = ["BudgetedGRPOTrainer", "BudgetedRolloutWorker"]


def __getattr__(name: str) -> Any:
    if name == "BudgetedGRPOTrainer":
        from rollout_budget.integrations.trl import grpo  # noqa: PLC0415  loads TRL's trainer

        return grpo.BudgetedGRPOTrainer
    if name == "BudgetedRolloutWorker":
        from rollout_budget.integrations.trl import worker  # noqa: PLC0415  loads TRL's experimental part

        return worker.BudgetedRolloutWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
