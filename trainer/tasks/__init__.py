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
from trainer.tasks.jsonl import Jsonl
from trainer.tasks.modular import Modular
from trainer.tasks.sorting import Sorting
from trainer.types import Task

TASKS: Mapping[str, type[Arithmetic | Modular | Countdown | Sorting | Jsonl]] = MappingProxyType(
    {"arithmetic": Arithmetic, "modular": Modular, "countdown": Countdown, "sorting": Sorting, "jsonl": Jsonl}
)

__all__ = ["TASKS", "Arithmetic", "Countdown", "Jsonl", "Modular", "Sorting", "get"]


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
