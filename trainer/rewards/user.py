"""A reward function of the user's, by import path: `my_package.rewards:grade` or `path/to/rewards.py:grade`.

The function takes prompt, completion and answer and returns a number in [0, 1]. It runs in worker processes with a limit
on time and memory (`trainer.rewards.workers`): what hangs, crashes, raises, or returns something else is worth 0, is counted
by its reason and said once per reason, and the run goes on.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from trainer.errors import ConfigError, TrainerError
from trainer.rewards.workers import Failure, Limits, WorkerPool
from trainer.types import Problem

log = logging.getLogger(__name__)


class UserReward:
    """Obeys `trainer.types.Verifier`. Building it starts a worker, so that a path that does not import stops no run midway.

    Args:
        path: module or file, a colon, and the function's name.
        limits: of its worker processes; the time limit is for one completion.

    Raises:
        ConfigError: there is no such function, or its module cannot be imported within the limits.
    """

    def __init__(self, path: str, limits: Limits | None = None) -> None:
        module, _, name = path.rpartition(":")
        if not module or not name:
            raise ConfigError(f"task.reward = {path!r}: write my_package.rewards:grade or path/to/rewards.py:grade")
        self._pool = WorkerPool(load, (_absolute(module), name), limits=limits or Limits())
        self._failures: Counter[str] = Counter()
        try:
            self._pool.start()
        except TrainerError as error:
            raise ConfigError(f"task.reward = {path!r}: {error}") from error

    @property
    def failures(self) -> Mapping[str, int]:
        """How many completions got no outcome from the function, by reason; each was worth 0."""
        return dict(self._failures)

    async def grade(self, problem: Problem, texts: Sequence[str]) -> list[float]:
        """Return what the function makes of each text, in bounded time."""
        return list(await asyncio.gather(*(self._one(problem, text) for text in texts)))

    async def close(self) -> None:
        """End the workers."""
        await self._pool.close()

    async def _one(self, problem: Problem, text: str) -> float:
        result = await self._pool.call(problem.prompt, text, problem.answer)
        if not isinstance(result, Failure):
            value = float(result)
            if 0.0 <= value <= 1.0:
                return value
            result = Failure("not a number" if math.isnan(value) else "outside [0, 1]", str(value))
        self._failures[result.reason] += 1
        if self._failures[result.reason] == 1:
            log.warning(
                "the reward function gave no outcome for a completion of problem %r: %s; that is worth 0, and is counted"
                " from here on without another word",
                problem.key,
                f"{result.reason} ({result.detail})" if result.detail else result.reason,
            )
        return 0.0


def load(module: str, name: str) -> Callable[[str, str, str], float]:
    """Import the function, in a worker; what it returns becomes a float there, where that cannot do harm."""
    function = getattr(_imported(module), name, None)
    if not callable(function):
        raise TypeError(f"{module} has no function {name!r}")

    def grade(prompt: str, completion: str, answer: str) -> float:
        value: Any = function(prompt, completion, answer)
        return float(value) if not isinstance(value, str | bytes) else float("nan")

    return grade


def _imported(module: str) -> ModuleType:
    if not module.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(module)
    spec = importlib.util.spec_from_file_location("user_reward", module)
    if spec is None or spec.loader is None or not Path(module).is_file():
        raise FileNotFoundError(module)
    sys.path.insert(0, str(Path(module).parent))  # a file may import its neighbours
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def _absolute(module: str) -> str:
    return str(Path(module).expanduser().resolve()) if module.endswith(".py") else module
