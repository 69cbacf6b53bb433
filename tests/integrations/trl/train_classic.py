"""Runs TRL's `GRPOTrainer` with our baselines: `python -m tests.integrations.trl.train_classic SETTINGS.json`.

Runs in TRL's own environment; TRL writes its table of completions to the folder that SETTINGS names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from trl import GRPOConfig

import rollout_budget as rb
from rollout_budget.integrations.trl import BudgetedGRPOTrainer
from tests.integrations.trl import task

SIZE = 8


def main(settings: dict[str, Any]) -> dict[str, Any]:
    args = GRPOConfig(
        output_dir=settings["out"],
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["per_step"],
        num_generations=SIZE,
        learning_rate=1e-3,
        max_completion_length=4,
        logging_steps=1,
        log_completions=True,
        num_completions_to_print=1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    budget = rb.Session(settings["run"], k_init=SIZE, k_max=SIZE, stopping="fixed", **settings["rules"])
    trainer = BudgetedGRPOTrainer(
        model=settings["model"],
        reward_funcs=[task.correct, task.brief],
        args=args,
        train_dataset=task.rows(),
        budget=budget,
        outcome="correct",
    )
    trainer.train()
    return {"steps": trainer.state.global_step, "log": trainer.state.log_history}


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    Path(given["report"]).write_text(json.dumps(main(given)))
