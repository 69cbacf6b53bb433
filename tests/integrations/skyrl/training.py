"""Runs SkyRL's own steps that need no GPU: `python -m tests.integrations.skyrl.training SETTINGS.json`.

Runs in the environment of hooks. Batches are SkyRL's, padded by its function; its trainer computes advantages through
its registry, fires its callbacks and hands its log over. Generation and the update of weights are left out. After each
step that is logged it says so, and waits for a line.
"""

from __future__ import annotations

import json
import sys
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import typing_extensions

if sys.version_info < (3, 12):
    typing.TypedDict = typing_extensions.TypedDict  # SkyRL 0.3.0 does not load on Python 3.11 without

import numpy as np
import torch
from ray import cloudpickle
from skyrl.backends.skyrl_train.training_batch import TrainingInputBatch, pad_training_input_batch
from skyrl.backends.skyrl_train.utils import ppo_utils
from skyrl.train.config import SkyRLTrainConfig
from skyrl.train.trainer import RayPPOTrainer
from skyrl.train.utils.callbacks import CallbackHandler, TrainingControl

import rollout_budget.integrations.skyrl as budgeted
from tests.integrations.pages import printed

PROMPTS, TOKENS = 6, 5


class Table(list[dict[str, Any]]):
    """What SkyRL's data set keeps its rows in, as far as rows are looked up."""


def trainer(settings: dict[str, Any]) -> Any:
    """Return SkyRL's trainer with what these steps use of it."""
    made = object.__new__(RayPPOTrainer)
    made.cfg = SkyRLTrainConfig.from_cli_overrides(
        [
            "trainer.algorithm.advantage_estimator=rollout_budget",
            "generator.n_samples_per_prompt=4",
            *settings["config"],
        ]
    )
    made.train_dataset = SimpleNamespace(dataframe=Table(rows()), prompt_key="prompt")
    made.train_dataloader, made.total_training_steps = None, settings["steps"]
    made.global_step, made._current_epoch, made.all_metrics = 0, 0, {}
    made._callback_handler, made._training_control = CallbackHandler(None), TrainingControl()
    made.add_callback(budgeted.Budget(settings["run"], prompt_key="id", **settings["rules"]))
    return made


def rows() -> list[dict[str, Any]]:
    """Return a data set."""
    return [{"id": f"p{row}", "prompt": [{"role": "user", "content": f"{row}+{row}="}]} for row in range(PROMPTS)]


def batch(coin: np.random.Generator, step: int, *, stepwise: bool) -> TrainingInputBatch:
    """Return a padded batch of three groups of 4, 4 and 3 rollouts; step-wise, each rollout is two rows."""
    uids = [str((3 * step + place) % PROMPTS) for place, size in enumerate((4, 4, 3)) for _ in range(size)]
    turns = 2 if stepwise else 1
    uids = [uid for uid in uids for _ in range(turns)]
    rewards, mask = torch.zeros(len(uids), TOKENS), torch.ones(len(uids), TOKENS)
    for row in range(len(uids)):
        mask[row, int(coin.integers(2, TOKENS)) :] = 0
        if (row + 1) % turns == 0:
            rewards[row, int(mask[row].sum()) - 1] = float(coin.random() < int(uids[row]) / (PROMPTS - 1))
    data = TrainingInputBatch({"rewards": rewards, "response_mask": mask, "loss_mask": mask.clone(), "values": None})
    last = [row % turns == turns - 1 for row in range(len(uids))]
    data.metadata = {"uids": uids, "avg_response_length": 3.0, "is_last_step": last}
    return pad_training_input_batch(data, -len(uids) % 8)


def trained(settings: dict[str, Any]) -> dict[str, Any]:
    """Go through the steps of one training; return what each came to."""
    assert budgeted.NAME in ppo_utils.AdvantageEstimatorRegistry.list_available()
    made, coin, done = trainer(settings), np.random.default_rng(0), []
    made._fire("on_train_start")
    for step in range(1, settings["steps"] + 1):
        made.global_step = step
        data = made.compute_advantages_and_returns(batch(coin, step, stepwise=bool(settings.get("stepwise"))))
        figures = {**made.all_metrics, "trainer/global_step": step}
        made._fire("on_log", logs=figures)
        done.append(
            {
                "uids": data.metadata["uids"],
                "rewards": data["rewards"].sum(dim=-1).tolist(),
                "advantages": data["advantages"].tolist(),
                "mask": data["response_mask"].tolist(),
                "last": data.metadata["is_last_step"],
                "log": figures,
            }
        )
        print(f"step {settings['run']} {step}", flush=True)  # noqa: T201
        sys.stdin.readline()
    made._fire("on_train_end")
    return {"steps": done}


def pickled() -> bool:
    """Return whether the registered function is still ours after pickling, by which SkyRL hands it to Ray's workers."""
    there = cloudpickle.loads(cloudpickle.dumps(ppo_utils.AdvantageEstimatorRegistry.get(budgeted.NAME)))
    return there.__wrapped__ is budgeted.estimate


def as_printed() -> list[str]:
    """Return what the page's script adds to the trainer that SkyRL makes; the script itself would ask for GPUs."""
    (script,) = printed("skyrl.md", "python")
    names: dict[str, Any] = {"__name__": "main_budgeted"}
    exec(compile(script, "skyrl.md", "exec"), names)  # noqa: S102 - the very text under test
    bare = object.__new__(RayPPOTrainer)
    bare._callback_handler = CallbackHandler(None)
    names["BasePPOExp"].get_trainer = lambda *_, **__: bare
    made = object.__new__(names["BudgetedExp"]).get_trainer(cfg=None)
    return [type(one).__name__ for one in made._callback_handler.callbacks]


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    reports = {settings["run"]: trained(settings) for settings in given["runs"]}
    Path(given["report"]).write_text(json.dumps({**reports, "registry": {"pickled": pickled(), "page": as_printed()}}))
