"""TRL's `GRPOTrainer` with our baselines: the group keeps the size that TRL gives it, its mean is replaced.

    BudgetedGRPOTrainer(
        model=name, reward_funcs=correct, args=args, train_dataset=data,
        budget=rb.Session("my-run", k_init=8, k_max=8, stopping="fixed"),  # 8 is args.num_generations
    ).train()

Two methods of TRL's are overridden, both named with an underscore there: the rewards are heard as they are calculated,
and advantages are replaced in what is returned. Nothing else of TRL's changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from trl import GRPOTrainer

from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.shared import Scores, outcome_place, prompt_of, spread
from rollout_budget.session import Drawn, Prompt, Session


class BudgetedGRPOTrainer(GRPOTrainer):  # type: ignore[misc] # TRL lives in another environment
    """TRL's trainer; further arguments are its own.

    Args:
        budget: not entered yet; its run draws groups of `num_generations` by the rule `fixed`.
        outcome: name of the reward function that is the verifiable outcome; needed where there are several.
        prompt_key: column with a stable id of the prompt; where it is missing the id is a hash of the prompt.

    Raises:
        InvalidInput: the run does not draw groups of the trainer's size, or it is not said which function is the outcome.
    """

    def __init__(
        self, *args: Any, budget: Session, outcome: str | None = None, prompt_key: str | None = "id", **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self._budget = budget
        self._outcome = outcome_place(self.reward_func_names, outcome)
        self._prompt_key = prompt_key
        self._scored: Any = None
        self._generations = 0
        spec, size = budget.spec, self.num_generations
        if (spec.k_init, spec.k_max, spec.stopping) != (size, size, "fixed"):
            declared = f'k_init={size}, k_max={size}, stopping="fixed"'
            raise InvalidInput(f"num_generations is {size}: declare the session with {declared}")
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise InvalidInput(
                'baselines are for a sum of rewards: set multi_objective_aggregation="sum_then_normalize"'
            )

    def train(self, *args: Any, **more: Any) -> Any:
        """Train as TRL does, the session open meanwhile."""
        with self._budget if self.accelerator.is_main_process else nullcontext():
            return super().train(*args, **more)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, with the budget's figures since the last time."""
        if self.model.training and self.accelerator.is_main_process and self._generations:
            logs |= self._budget.metrics()
        super().log(logs, start_time)

    def _calculate_rewards(self, *args: Any) -> torch.Tensor:
        """Keep the rewards of all processes, (rollouts, functions)."""
        self._scored = super()._calculate_rewards(*args)
        rewards: torch.Tensor = self._scored
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Replace the advantages of a batch that is trained on, here and in TRL's table of completions."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return output
        prompts = gather_object([prompt_of(row, group="", key=self._prompt_key) for row in inputs])
        told: list[Any] = [None]
        if self.accelerator.is_main_process:
            told = [self._advantages(prompts)]
        advantages = torch.tensor(broadcast_object_list(told)[0], dtype=output["advantages"].dtype)
        self._generations += 1
        first = self.accelerator.process_index * len(inputs)
        output["advantages"] = advantages[first : first + len(inputs)].to(output["advantages"].device)
        logged = self._logs["advantages"]
        for _ in range(min(len(advantages), len(logged))):
            logged.pop()
        logged.extend(advantages.tolist())
        return output

    def _advantages(self, prompts: Sequence[Prompt]) -> list[float]:
        """Return one per rollout of all processes; groups lie one behind the other, as TRL lays them."""
        size, table = self.num_generations, self._scored.double().cpu().numpy().T
        weights = self.reward_weights.double().cpu().numpy()
        groups = [
            Scores(table[:, first : first + size], self._outcome, np.asarray(weights))
            for first in range(0, len(prompts), size)
        ]
        drawn = []
        for place, scores in enumerate(groups):
            prompt = prompts[place * size]
            named = Prompt(prompt.key, prompt.text, group=f"s{self._step}-{place}")
            verified = scores.verified
            rewards = scores.totals[verified].tolist() if scores.shaped else None
            outcomes = scores.table[self._outcome][verified].tolist()
            drawn.append(Drawn(named, outcomes, rewards, lost=int((~verified).sum())))
        done = self._budget.score(drawn, version=self.state.global_step)
        pairs = zip(done, groups, strict=True)
        return [one for group, scores in pairs for one in spread(group.advantages, scores.verified.tolist())]
