"""Processes that run one function at a time on hostile input, bounded in time and memory.

Owns starting, timing out, killing and replacing them; what they compute is a function that a maker returns inside them.
Each call is bounded by an alarm in the process, by an address-space limit, and, where code hears no alarm (C functions,
a sleep, a caught alarm), by its caller, who kills the process and starts another. The alarm counts seconds of computing,
not of the clock, so that an outcome does not depend on what else the machine does.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import resource
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from trainer.errors import TrainerError

WORKERS = 2
"""Calls at a time: a comparison takes 0.7 ms, so two keep up with thousands of completions a second."""
TIMEOUT_S = 5.0
"""Most computing for one call, as in math-verify itself; an honest answer takes milliseconds."""
SLOWDOWN = 4.0
GRACE_S = 2.0
"""How long to wait for a worker by the clock: as on a machine four times overbooked, and for a moment more."""
START_S = 60.0
"""Longest wait for a worker to import what it needs: 1 s for sympy on an idle core."""
MAX_MEMORY_BYTES = 2 * 2**30
"""Address space of a worker: four times what sympy needs."""
MAX_DETAIL_CHARS = 200
"""Longest account of an exception that a worker hands over."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a pool: calls at a time, seconds of computing per call, bytes of address space per process."""

    workers: int = WORKERS
    timeout_s: float = TIMEOUT_S
    memory_bytes: int = MAX_MEMORY_BYTES


@dataclass(frozen=True, slots=True)
class Failure:
    """A call without a result: `reason` is one of a few words, `detail` what is known of this call."""

    reason: str
    detail: str = ""


class WorkerPool:
    """Runs calls of `make(*args)`'s result in processes that start when they are first needed.

    Args:
        make: importable by name; called once in each process, with imports and other work of a start.
        args: of `make`; picklable.
        limits: see `Limits`.
    """

    def __init__(self, make: Callable[..., Callable[..., Any]], args: tuple[Any, ...] = (), *, limits: Limits) -> None:
        self._workers = [_Worker(make, args, limits) for _ in range(limits.workers)]
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        for worker in self._workers:
            self._idle.put_nowait(worker)

    def start(self) -> None:
        """Start one process now, so that a function that cannot be made is known before a run begins. Blocks.

        Raises:
            TrainerError: it cannot.
        """
        self._workers[0].start()

    async def call(self, *args: Any) -> Any:
        """Return the function's result, or a `Failure`.

        Raises:
            TrainerError: no process could be started.
        """
        worker = await self._idle.get()
        try:
            return await asyncio.to_thread(worker.call, args)
        finally:
            self._idle.put_nowait(worker)

    async def close(self) -> None:
        """End the processes."""
        await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in self._workers))


class _Worker:
    """A process with one call at a time. Its methods block: call them from a thread, one at a time."""

    def __init__(self, make: Callable[..., Callable[..., Any]], args: tuple[Any, ...], limits: Limits) -> None:
        self._work = (make, args, limits)
        self._limits = limits
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def call(self, args: tuple[Any, ...]) -> Any:
        """Return the result, or a `Failure`; a process that did not answer is ended."""
        pipe = self._pipe or self.start()
        failure = Failure("took too long")
        try:
            pipe.send(args)
            if pipe.poll(self._limits.timeout_s * SLOWDOWN + GRACE_S):
                return pipe.recv()
        except (EOFError, OSError):
            failure = Failure("crashed")
        self.stop()
        return failure

    def start(self) -> Connection:
        """Start the process and wait until it is ready."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._work), daemon=True)
        self._process.start()
        theirs.close()
        told: Any = Failure("it ended, or did not start in time")
        with suppress(EOFError, OSError):
            if self._pipe.poll(START_S):
                told = self._pipe.recv()
        if not isinstance(told, Failure):
            return self._pipe
        self.stop()
        raise TrainerError(f"a worker of a reward did not start: {told.detail or told.reason}")

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


class _TimeUp(BaseException):
    """The alarm went off. No `Exception`, since sympy, math-verify and users catch those."""


def _serve(pipe: Connection, make: Callable[..., Callable[..., Any]], args: tuple[Any, ...], limits: Limits) -> None:
    """Run a worker until its parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGPROF, _time_up)
    logging.disable(logging.CRITICAL)  # math-verify logs whole answers
    warnings.simplefilter("ignore")
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    try:
        function = make(*args)
    except BaseException as error:  # noqa: BLE001 - a user's module may do anything; its parent says what it did
        pipe.send(_account("did not start", error))
        return
    pipe.send("ready")
    with suppress(EOFError):
        while True:
            pipe.send(_bounded(function, pipe.recv(), limits.timeout_s))


def _time_up(_signal: int, _frame: FrameType | None) -> None:
    raise _TimeUp


def _bounded(function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float) -> Any:
    try:
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        try:
            return function(*args)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
    except _TimeUp:
        return Failure("took too long")
    except BaseException as error:  # noqa: BLE001 - whatever an answer breaks, it is a wrong answer
        return _account("raised", error)


def _account(reason: str, error: BaseException) -> Failure:
    try:
        detail = " ".join(f"{type(error).__name__}: {error}".split())
    except Exception:  # noqa: BLE001 - an error that cannot say what it is
        detail = type(error).__name__
    return Failure(reason, detail[:MAX_DETAIL_CHARS])
