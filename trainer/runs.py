"""A run's identity: its folder, its declaration to the allocator, and whether a configuration is that of an earlier attempt.

Layout of `output_dir/id/`: `config.json`, `metrics.jsonl`, `summary.json`, `checkpoints/`, `weights/`, `attempt`,
`drawn`, `declared.json`.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from rollout_budget.client.base import Allocator
from rollout_budget.errors import Unauthorized
from rollout_budget.wire import PacingSettings, Run, RunLimits, RunPatch, RunSpec
from trainer.config import Config, Section
from trainer.errors import ConfigError
from trainer.metrics import CONFIG_FILE, read_config

CHECKPOINTS = "checkpoints"
WEIGHTS = "weights"
ATTEMPT_FILE = "attempt"
DRAWN_FILE = "drawn"
DECLARED_FILE = "declared.json"
FIXED = ("task", "policy", "allocator")
"""Sections that must stay as they were when a run goes on: with others it would be another run under the same name."""
MOVABLE = {"url", "key_file"}
"""Settings of those sections that may change: where a service is, not what it does."""


def prepare(config: Config) -> Path:
    """Return the folder of the run, new or that of an earlier attempt, with the configuration written into it.

    Raises:
        ConfigError: an earlier attempt had other settings in a section that must not change.
    """
    name = config.run.id or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    directory = config.run.output_dir / name
    if (directory / ATTEMPT_FILE).is_file():
        _require_same(read_config(directory), config, directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / CONFIG_FILE, config.model_dump_json(indent=1))
    return directory


def named(config: Config, name: str) -> Config:
    """Return the configuration with the run's id filled in, also where a new one was made for it."""
    return config.model_copy(update={"run": config.run.model_copy(update={"id": name})})


def next_attempt(directory: Path) -> int:
    """Return the number of this attempt, from 0: part of every group's id, so that a killed step is drawn anew."""
    path = directory / ATTEMPT_FILE
    attempt = int(path.read_text(encoding="utf-8")) + 1 if path.is_file() else 0
    write_atomically(path, str(attempt))
    return attempt


def note_drawn(directory: Path, rollouts: int) -> None:
    """Remember how many rollouts the run has drawn, as soon as they are: an allocator in this process forgets them."""
    write_atomically(directory / DRAWN_FILE, str(rollouts))


def noted_drawn(directory: Path) -> int:
    """Return how many rollouts all attempts so far have drawn."""
    path = directory / DRAWN_FILE
    return int(path.read_text(encoding="utf-8")) if path.is_file() else 0


def run_spec(config: Config, directory: Path) -> RunSpec:
    """Return the run as the allocator is told of it. Each run is a policy of its own, whose evidence no other's blurs."""
    settings = config.allocator
    return RunSpec(
        run_id=directory.name,
        name=config.method,
        policy=directory.name,
        estimator=settings.estimator,
        stopping=settings.stopping,
        price=settings.price if settings.pacing_steps is None else None,
        pacing=None if settings.pacing_steps is None else PacingSettings(steps=settings.pacing_steps),
        k_init=settings.k_init,
        k_max=settings.k_max,
        advantage_samples=settings.advantage_samples,
        prior_model=settings.prior_model,
        reference_group_size=settings.reference_group_size,
        limits=RunLimits(rollouts=config.run.rollouts),
    )


async def declare(allocator: Allocator, config: Config, directory: Path, *, used: int, done: int) -> Run:
    """Tell the allocator of the run, and return what it knows of it.

    A service is told on every attempt what it was told on the first, then what changed.

    Args:
        allocator: a service, which remembers, or one in this process, which was born with this attempt.
        config: the settings.
        directory: the run's folder.
        used: rollouts of earlier attempts, which an allocator in this process knows nothing of.
        done: steps of earlier attempts; it knows nothing of these either, and paces over the rest.

    Raises:
        ConfigError: the service does not accept the key.
    """
    spec = run_spec(config, directory)
    if config.allocator.url is None:
        return await allocator.create_run(_rest(spec, used, done))
    path = directory / DECLARED_FILE
    first = RunSpec.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else spec
    write_atomically(path, first.model_dump_json(indent=1))
    try:
        run = await allocator.create_run(first)
    except Unauthorized as error:
        raise ConfigError(f"allocator.key_file = '{config.allocator.key_file}': {error}") from error
    if spec.limits != run.spec.limits:
        return await allocator.patch_run(directory.name, RunPatch(limits=spec.limits))
    return run


def _rest(spec: RunSpec, used: int, done: int) -> RunSpec:
    """Return the run without the rollouts and the steps of earlier attempts."""
    limit, pacing = spec.limits.rollouts, spec.pacing
    left = spec.limits if limit is None else RunLimits(rollouts=max(0, limit - used))
    paced = None if pacing is None else PacingSettings(steps=max(1, pacing.steps - done))
    return spec.model_copy(update={"limits": left, "pacing": paced})


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader finds the old text or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _require_same(before: Config, now: Config, directory: Path) -> None:
    for name in FIXED:
        old, new = (_comparable(getattr(config, name)) for config in (before, now))
        for field, value in old.items():
            if new[field] != value:
                raise ConfigError(
                    f"{name}.{field} = {new[field]!r}: {directory} was started with {value!r}; "
                    "keep it to go on, or give another run.id to start anew"
                )


def _comparable(section: Section) -> dict[str, object]:
    return section.model_dump(mode="json", exclude=MOVABLE)
