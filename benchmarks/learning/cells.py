"""One run of the study as a value: what is learned by which method at which rate and seed, and its configuration.

Owns tasks, pools, sizes and seeds. A cell's hash is that of the whole configuration but for places on disk, so a result
counts as done only where every setting is still the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.learning.methods import ALL, Settings
from trainer.config import Config, load

Pool = Literal["recurring", "stream"]

POOLS: tuple[Pool, ...] = ("recurring", "stream")
"""Prompts to draw from: some that come back several times in a run, or more than any run opens."""
RECURRING = 1000
"""Prompts of a pool that recurs: met eight times in a run with two rollouts a prompt."""
STREAMS: Mapping[str, int] = {"sorting": 28_000, "arithmetic": 14_000}
"""Prompts of a pool that does not: nearly as many as 64 steps of 512 candidates, or all that there are."""
TASKS: Mapping[str, Settings] = {
    "sorting": {"task.name": "sorting", "task.sorting.levels": [2], "policy.demo.warmup_steps": 110},
    "arithmetic": {"task.name": "arithmetic", "task.arithmetic.levels": [1, 2], "policy.demo.warmup_steps": 1000},
}
"""Seven digits to be put in one of two orders; sums and differences of one and two digits. Each has the warm-up after
which its policy is right one time in eight or in five: late enough for every method to learn, early enough for there to
be something to learn."""
ROLLOUTS = 16_384
"""Of every run: 64 steps of 256."""
HELD_OUT = 320
"""Problems of a measurement, one sampled completion each: a standard error of at most .028."""
RATES = (1e-4, 2e-4, 4e-4)
"""Learning rates that every method is tried at; at 8e-4 all of them did worse, and most collapsed."""
SEEDS = (0, 1, 2, 3, 4)
TUNING_SEEDS = (100, 101)
"""Seeds of the order of prompts and of sampling; those of the tuning are never measured on. All start from one policy."""
COMMON: Settings = {
    "run.rollouts": ROLLOUTS,
    "rollouts.per_step": 256,
    "policy.demo.hidden_size": 64,
    "policy.demo.intermediate_size": 128,
    "policy.demo.layers": 2,
    "policy.demo.heads": 2,
    "policy.demo.kv_heads": 1,
    "evaluation.every": 3,
    "evaluation.prompts": HELD_OUT,
    "checkpoint.every": 1_000_000,
    "weights.check": False,
    "logging.progress": False,
    "learner.lr_warmup_steps": 5,
    "learner.entropy": True,
    "learner.device": "cpu",
}
"""What all runs share: a policy of 87,000 parameters, and a measurement about every 768 rollouts."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run."""

    task: str
    pool: Pool
    method: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """A name for logs and folders."""
        plain = self.method.lower().replace(",", "").replace("'", "").replace(" ", "-")
        return f"{plain}-{self.task}-{self.pool}-{self.rate:g}-{self.seed}"

    def config(self, places: Settings | None = None) -> Config:
        """Return the configuration of the run.

        Args:
            places: settings that say where files are; they change nothing of the result.
        """
        task = TASKS[self.task]
        name = task["task.name"]
        own = {
            f"task.{name}.size": RECURRING if self.pool == "recurring" else STREAMS[self.task],
            f"task.{name}.held_out_size": HELD_OUT,
            "run.seed": self.seed,
            "run.name": self.method,
            "learner.lr": self.rate,
        }
        method = ALL[self.method]
        settings = {**COMMON, **method.changes, **task, **own, **(places or {})}
        return load(None, [f"{name}={json.dumps(value)}" for name, value in settings.items()], method.recipe)

    @property
    def digest(self) -> str:
        """A hash of every setting; names are none."""
        text = json.dumps(self.config({"run.name": ""}).model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def places(folder: Path, cache: Path, name: str) -> Settings:
    """Return where a run keeps its files."""
    return {"run.output_dir": str(folder), "run.cache_dir": str(cache), "run.id": name}
