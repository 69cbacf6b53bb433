"""Runs tinker-cookbook's own training loop, run after run: `python -m tests.integrations.tinker.training SETTINGS.json`.

Runs in the environment of hooks. After each step that is logged it says so, and waits for a line.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import chz
import tinker
from tinker_cookbook.renderers import get_renderer
from tinker_cookbook.rl import train
from tinker_cookbook.rl.problem_env import ProblemEnv, ProblemGroupBuilder
from tinker_cookbook.rl.types import RLDataset, RLDatasetBuilder
from tinker_cookbook.tokenizer_utils import register_tokenizer
from tinker_cookbook.utils import ml_log

import rollout_budget as rb
from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.tinker import budgeted
from tests.integrations.pages import printed
from tests.integrations.tinker.edge import Characters, Service

PER_STEP = 4


class Question(ProblemEnv):  # type: ignore[misc] # tinker-cookbook lives in another environment
    """Is answered by yes; short answers are well formed."""

    def __init__(self, question: str) -> None:
        super().__init__(get_renderer("role_colon", Characters()))
        self._question = question

    def get_question(self) -> str:
        """See `ProblemEnv`."""
        return self._question

    def check_answer(self, sample_str: str) -> bool:
        """See `ProblemEnv`."""
        return sample_str.strip() == "yes"

    def check_format(self, sample_str: str) -> bool:
        """See `ProblemEnv`."""
        return len(sample_str) < 3

    def get_reference_answer(self) -> str:
        """See `ProblemEnv`."""
        return "yes"


class Questions(RLDataset):  # type: ignore[misc] # tinker-cookbook lives in another environment
    """Steps of four questions, which say how likely they are answered."""

    def __init__(self, steps: int, away: str) -> None:
        self._steps = steps
        self._away = away

    def get_batch(self, index: int) -> list[ProblemGroupBuilder]:
        """See `RLDataset`."""
        names = [f"{(3 * place) % 10} question of step {index}" for place in range(PER_STEP)]
        if self._away:
            names[1] += " away"
        return [ProblemGroupBuilder(functools.partial(Question, name), num_envs=2) for name in names]

    def __len__(self) -> int:
        return self._steps


@chz.chz
class QuestionsBuilder(RLDatasetBuilder):  # type: ignore[misc] # tinker-cookbook lives in another environment
    """Makes both data sets."""

    steps: int
    away: str = ""

    async def __call__(self) -> tuple[Questions, Questions]:
        return Questions(self.steps, self.away), Questions(1, "")


async def trained(settings: dict[str, Any]) -> dict[str, Any]:
    """Train once; return what was logged and what was learned from."""
    Service.learned = []
    config = train.Config(
        learning_rate=1e-5,
        dataset_builder=QuestionsBuilder(steps=settings["steps"], away=settings.get("away", "")),
        model_name="characters",
        recipe_name="questions",
        max_tokens=8,
        log_path=settings["out"],
        eval_every=settings.get("eval_every", 0),
        save_every=0,
        rollout_error_tolerance=bool(settings.get("tolerant")),
    )
    fault = None
    async with rb.AsyncSession(settings["run"], **settings["rules"]) as session:
        try:
            await train.main(budgeted(config, session, outcome="correct"))
        except InvalidInput as error:
            fault = str(error)
    return {**came_to(settings), "fault": fault}


def as_printed(settings: dict[str, Any]) -> dict[str, Any]:
    """Run the script of the page, with a tokenizer that is here, and fewer steps."""
    Service.learned = []
    ours = {
        "Qwen/Qwen3-8B": "characters",
        "qwen3_disable_thinking": "role_colon",
        "n_batches=100": f"n_batches={settings['steps']}",
        "runs/arithmetic": settings["out"],
    }
    (script,) = printed("tinker.md", "python")
    for theirs, other in ours.items():
        assert theirs in script
        script = script.replace(theirs, other)
    os.environ.update(settings["environment"])
    exec(compile(script, "tinker.md", "exec"), {})  # noqa: S102 - the very text under test
    return came_to(settings)


def came_to(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what was logged and what was learned from."""
    lines = (Path(settings["out"]) / "metrics.jsonl").read_text().splitlines()
    return {"log": [json.loads(line) for line in lines], "learned": Service.learned}


def _stop_at_each_step() -> None:
    write = ml_log.JsonLogger.log_metrics

    def written(self: Any, metrics: dict[str, Any], step: int | None = None) -> None:
        write(self, metrics, step)
        if "progress/batch" in metrics:
            print(f"step {Path(self.log_dir).name} {step}", flush=True)  # noqa: T201
            sys.stdin.readline()

    ml_log.JsonLogger.log_metrics = written


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    tinker.ServiceClient = Service
    train.fetch_model_pricing = lambda _: None  # asks a web page for prices
    register_tokenizer("characters", Characters)
    _stop_at_each_step()
    reports = {
        settings["run"]: as_printed(settings) if "environment" in settings else asyncio.run(trained(settings))
        for settings in given["runs"]
    }
    Path(given["report"]).write_text(json.dumps(reports))
