"""The trainer in a process of its own, which tells where it is and waits until it may go on.

It is forked from a server of processes that has imported what training needs, so a start costs a second, not ten. What
runs is what `python -m trainer train` runs. Its stages come from its own events and from what it asks of the file system
(`sys.addaudithook`), so a kill between two lines of it is a kill there and nowhere else.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from trainer.cli import read, told
from trainer.loop import run_training
from trainer.metrics import Event, Phase

Reached = Callable[[str, int], Awaitable[None]]
"""Told of a stage and its step before the trainer enters it; it waits."""

_FILES = (
    ("os.mkdir", 0, re.compile(r"/weights/\.v(\d+)\.draft$"), "exporting"),
    ("os.rename", 1, re.compile(r"/weights/v(\d+)$"), "exported"),
    ("os.mkdir", 0, re.compile(r"/checkpoints/\.step-(\d+)\.draft$"), "saving"),
    ("os.rename", 1, re.compile(r"/checkpoints/step-(\d+)$"), "saved"),
    ("open", 0, re.compile(r"/checkpoints/step-(\d+)/COMPLETE$"), "completing"),
    ("os.remove", 0, re.compile(r"/rollouts/step-(\d+)\.jsonl$"), "forgetting"),
    ("open", 0, re.compile(r"/rollouts/step-(\d+)\.jsonl$"), "noting"),
)
"""What the trainer does with files: event, which of its arguments, the path, and the stage that it means."""
_BEFORE = ("rollouts", "learning")
"""Phases of a step that is not done yet."""


def _train(arguments: Sequence[str], log: str, link: Connection) -> None:
    """Train, as the command does, with all output in a file."""
    with Path(log).open("ab", buffering=0) as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    torch.set_num_threads(1)
    lock = threading.Lock()

    def reach(stage: str, step: int) -> None:
        with lock:
            link.send((stage, step))
            link.recv()

    def hear(event: Event) -> None:
        if isinstance(event, Phase):
            reach(event.name, event.step + (event.name in _BEFORE))

    def look(event: str, values: tuple[Any, ...]) -> None:
        for name, place, pattern, stage in _FILES:
            if event != name or not isinstance(values[place], str | os.PathLike):
                continue
            if stage == "noting" and values[1] != "a":
                continue
            if (found := pattern.search(os.fspath(values[place]))) is not None:
                reach(stage, int(found[1]))

    sys.addaudithook(look)
    with told():
        run_training(read(None, list(arguments)), on_event=hear)


class LearnerProcess:
    """One start of the trainer.

    Args:
        arguments: settings, as `--set` takes them.
        log: everything that it prints.
        reached: told of every stage.
    """

    def __init__(self, arguments: Sequence[str], log: Path, reached: Reached) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._link, self._theirs = context.Pipe()
        self._process = context.Process(target=_train, args=(arguments, str(log), self._theirs))
        self._reached = reached
        self._answers: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process.pid is not None
        return self._process.pid

    def start(self) -> None:
        """Start it."""
        self._process.start()
        self._theirs.close()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._link.fileno(), self._hear)
        loop.add_reader(self._process.sentinel, self._end)

    async def wait(self) -> int:
        """Return its exit status once it has ended, negative for a signal."""
        await self._ended.wait()
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    async def close(self) -> None:
        """End whatever is left of it."""
        if self._process.is_alive():
            self._process.kill()
        await self.wait()
        for task in self._answers:
            task.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)
        self._link.close()

    def _hear(self) -> None:
        try:
            stage, step = self._link.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._link.fileno())
            return
        task = asyncio.ensure_future(self._answer(stage, step))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, stage: str, step: int) -> None:
        await self._reached(stage, step)
        try:
            self._link.send(None)
        except OSError:
            return  # it was killed there

    def _end(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._process.sentinel)
        loop.remove_reader(self._link.fileno())
        self._ended.set()
