"""A run's identity: its folder, its declaration to the allocator, and whether a configuration is that of an earlier attempt.

Layout of `output_dir/id/`: `config.json`, `metrics.jsonl`, `summary.json`, `checkpoints/`, `weights/`, `rollouts/`,
`starts`, `attempt`, `declared.json`, `allocator.jsonl` where the allocator is in this process, and `untold.jsonl` while one
by URL has not heard of everything.
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
ROLLOUTS = "rollouts"
ATTEMPT_FILE = "attempt"
STARTS_FILE = "starts"
ALLOCATOR_FILE = "allocator.jsonl"
UNTOLD_FILE = "untold.jsonl"
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
    if has_begun(directory):
        _require_same(read_config(directory), config, directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / CONFIG_FILE, config.model_dump_json(indent=1))
    return directory


def has_begun(directory: Path) -> bool:
    """Return whether anything was drawn or saved under a run's name: before, its settings bind nobody."""
    return any((directory / ROLLOUTS).glob("step-*")) or any((directory / CHECKPOINTS).glob("step-*"))


def named(config: Config, name: str) -> Config:
    """Return the configuration with the run's id filled in, also where a new one was made for it."""
    return config.model_copy(update={"run": config.run.model_copy(update={"id": name})})


def next_start(directory: Path) -> int:
    """Count another start of a run, from 0: part of the names of the weights that it publishes from now on."""
    return _count(directory / STARTS_FILE)


def starts_of(directory: Path) -> int:
    """Return the number of the start under way, 0 where there was none."""
    path = directory / STARTS_FILE
    return int(path.read_text(encoding="utf-8")) if path.is_file() else 0


def attempt_for(directory: Path, *, lost: bool) -> int:
    """Return the attempt as which new groups are opened, from 0.

    Groups whose rollouts are on record are opened again as they were. Where records are `lost`, another attempt begins:
    the allocator knows groups of those steps, whose outcomes nobody else knows any more.
    """
    path = directory / ATTEMPT_FILE
    if lost or not path.is_file():
        return _count(path)
    return int(path.read_text(encoding="utf-8"))


def _count(path: Path) -> int:
    number = int(path.read_text(encoding="utf-8")) + 1 if path.is_file() else 0
    write_atomically(path, str(number))
    return number


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


async def declare(allocator: Allocator, config: Config, directory: Path) -> Run:
    """Tell the allocator of the run, and return what it knows of it.

    It is told on every attempt what it was told on the first, then what changed.

    Raises:
        ConfigError: the service does not accept the key.
    """
    spec = run_spec(config, directory)
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
