"""Tasks by name: problems to train on and held-out ones to measure on.

A task is a frozen dataclass whose fields are its options, so that a configuration can name it with plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from trainer.errors import ConfigError
from trainer.tasks.arithmetic import Arithmetic
from trainer.tasks.countdown import Countdown
from trainer.tasks.huggingface import HuggingFace
from trainer.tasks.jsonl import Jsonl
from trainer.tasks.modular import Modular
from trainer.tasks.rows import said
from trainer.tasks.sorting import Sorting
from trainer.types import Task

TASKS: Mapping[str, type[Arithmetic | Modular | Countdown | Sorting | Jsonl | HuggingFace]] = MappingProxyType(
    {
        "arithmetic": Arithmetic,
        "modular": Modular,
        "countdown": Countdown,
        "sorting": Sorting,
        "jsonl": Jsonl,
        "huggingface": HuggingFace,
    }
)

__all__ = ["TASKS", "Arithmetic", "Countdown", "HuggingFace", "Jsonl", "Modular", "Sorting", "get", "notice"]


def get(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Return the task of this name with these options.

    Raises:
        ConfigError: no task or no option of that name, or a value that the task refuses.
    """
    if name not in TASKS:
        raise ConfigError(f"task.name: {name!r} is none of {', '.join(TASKS)}")
    known = [field.name for field in fields(TASKS[name]) if field.init]
    for option in options or {}:
        if option not in known:
            raise ConfigError(f"task.{name}.{option}: {name} has no such option, only {', '.join(known)}")
    return TASKS[name](**(options or {}))


def notice(task: Task) -> str | None:
    """Return one line on what a task left out of its data, or None where it left nothing out."""
    left_out: Mapping[str, int] = getattr(task, "left_out", {})
    return f"task {task.name} left out {said(left_out)}" if left_out else None
