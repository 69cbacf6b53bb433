"""A training in this process alone: allocator, generator and verifier that tests can look at and break."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rollout_budget.client import LocalAllocator
from tests.trainer.tiny import SHAPE
from trainer import rewards, tasks
from trainer.config import Config, load
from trainer.loop import run_training
from trainer.metrics import Event, Listener, Summary
from trainer.parts import Parts
from trainer.rollouts.inprocess import InProcessGenerator

TINY = [
    "task.arithmetic.levels=[1]",
    "task.arithmetic.size=30",
    "task.arithmetic.held_out_size=6",
    *(f"policy.demo.{name}={value}" for name, value in SHAPE.model_dump().items() if not name.startswith("warmup")),
    "policy.demo.warmup_steps=25",
    "policy.demo.warmup_batch=16",
    "rollouts.per_step=12",
    "rollouts.max_tokens=3",
    "evaluation.every=1",
    "checkpoint.every=1",
    "logging.progress=false",
    "learner.lr=1e-3",
]


class Wiring:
    """Parts for `run_training` that outlive one run, so that tests can look at them and break them."""

    def __init__(self) -> None:
        self.ledger = LocalAllocator()
        self.allocator: Any = self.ledger
        self.generators: list[InProcessGenerator] = []
        self.told: list[Event] = []

    def make_generator(self) -> InProcessGenerator:
        return InProcessGenerator()

    @asynccontextmanager
    async def connect(self, config: Config, tell: Listener) -> AsyncIterator[Parts]:
        del tell
        generator = self.make_generator()
        self.generators.append(generator)
        task = tasks.get(config.task.name, config.task.options)
        try:
            yield Parts(task, rewards.get(config.task.verifier), generator, generator, self.allocator)
        finally:
            await generator.close()

    def train(self, tmp_path: Path, cache: Path, *changes: str) -> Summary:
        places = [f"run.output_dir={tmp_path}", f"run.cache_dir={cache}", "run.id=run"]
        config = load(None, [*TINY, *places, *changes])
        summary = run_training(config, on_event=self.told.append, connect=self.connect)
        assert summary is not None
        return summary


class Hearing(list[Event]):
    """A list of events that also passes them on."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def append(self, event: Event) -> None:
        super().append(event)
        self._listener(event)
