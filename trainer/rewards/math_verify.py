"""Mathematical equality by math-verify, which a policy under training will try to break.

An answer such as 9^{9^{9^9}} makes sympy compute for ever, or use all memory. So each comparison runs in a worker
process: bounded by an alarm inside it, by an address-space limit, and, where a C function hears no alarm, by its caller,
who kills the worker and starts another. The alarm counts seconds of computing, not of the clock, so that an outcome does
not depend on what else the machine does. Most answers never get that far: equal texts and plain numbers are compared
here, and every comparison is made once.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import re
import resource
import signal
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from multiprocessing.connection import Connection
from types import FrameType

from trainer.errors import TrainerError
from trainer.types import Problem

log = logging.getLogger(__name__)

WORKERS = 2
"""Comparisons at a time: one takes 0.7 ms, so two keep up with thousands of completions a second."""
TIMEOUT_S = 5.0
"""Most computing for one comparison, as in math-verify itself; an honest answer takes milliseconds."""
SLOWDOWN = 4.0
GRACE_S = 2.0
"""How long to wait for a worker by the clock: as on a machine four times overbooked, and for a moment more."""
START_S = 60.0
"""Longest wait for a worker to import sympy: 1 s on an idle core."""
MAX_ANSWER_CHARS = 500
"""Only the end of a completion without one \\boxed{} is looked at; a longer answer inside one is worth 0."""
MAX_MEMORY_BYTES = 2 * 2**30
"""Address space of a worker: four times what it needs to start."""
MAX_CACHED = 65_536
"""Comparisons remembered: some 60 MB at worst."""

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_INTEGER = re.compile(r"[+-]?\d{1,50}", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d{1,50}(\.\d{1,50}|/0*[1-9]\d{0,49})?", re.ASCII)


class MathVerifier:
    """Obeys `trainer.types.Verifier`; workers start with the first answer that needs one."""

    def __init__(self, *, workers: int = WORKERS, timeout_s: float = TIMEOUT_S) -> None:
        self._workers = [_Worker(timeout_s) for _ in range(workers)]
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        for worker in self._workers:
            self._idle.put_nowait(worker)
        self._known: OrderedDict[tuple[str, str], bool] = OrderedDict()

    async def grade(self, problem: Problem, texts: Sequence[str]) -> list[float]:
        """Return 1 for each text whose final answer equals the problem's, 0 for any other, in bounded time."""
        gold = problem.answer.strip()
        answers = [final_answer(text) for text in texts]
        distinct = list(dict.fromkeys(answers))
        equal = dict(zip(distinct, await asyncio.gather(*(self._equal(gold, item) for item in distinct)), strict=True))
        return [float(equal[answer]) for answer in answers]

    async def close(self) -> None:
        """End the workers."""
        await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in self._workers))

    async def _equal(self, gold: str, answer: str) -> bool:
        quick = compare_plainly(gold, answer)
        if quick is not None:
            return quick
        if (gold, answer) not in self._known:
            self._known[gold, answer] = await self._ask_worker(gold, answer)
            if len(self._known) > MAX_CACHED:
                self._known.popitem(last=False)
        return self._known[gold, answer]

    async def _ask_worker(self, gold: str, answer: str) -> bool:
        worker = await self._idle.get()
        try:
            verdict = await asyncio.to_thread(worker.compare, gold, answer)
        finally:
            self._idle.put_nowait(worker)
        if verdict is None:
            log.warning("math-verify cannot read the answer of a problem: %r; only an equal text will be right", gold)
        return bool(verdict)


def final_answer(text: str) -> str:
    r"""Return what a completion answers: the content of its only plain `\boxed{}`, else the end of the text."""
    boxed = _BOXED.findall(text)
    if len(boxed) == 1:
        content = str(boxed[0]).strip()
        return content if len(content) <= MAX_ANSWER_CHARS else ""
    return text.strip()[-MAX_ANSWER_CHARS:]


def compare_plainly(gold: str, answer: str) -> bool | None:
    """Compare without sympy: equal texts and numbers, unequal integers, empty answers. None where that cannot tell."""
    if gold == answer:
        return True
    if not answer:
        return False
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        return int(gold) == int(answer)
    if _NUMBER.fullmatch(gold) and _NUMBER.fullmatch(answer) and Fraction(gold) == Fraction(answer):
        return True
    return None


class _Worker:
    """A process that compares one pair at a time. Its methods block: call them from a thread, one at a time."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def compare(self, gold: str, answer: str) -> bool | None:
        """Return whether they are equal; None where `gold` cannot be read. What takes too long or crashes is False."""
        pipe = self._pipe or self._start()
        try:
            pipe.send((gold, answer))
            if pipe.poll(self._timeout_s * SLOWDOWN + GRACE_S):
                verdict: bool | None = pipe.recv()
                return verdict
        except (EOFError, OSError):
            log.debug("a worker ended in the middle of a comparison")
        self.stop()
        return False

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._timeout_s), daemon=True)
        self._process.start()
        theirs.close()
        with suppress(EOFError, OSError):
            if self._pipe.poll(START_S) and self._pipe.recv() == "ready":
                return self._pipe
        self.stop()
        raise TrainerError("a math-verify worker did not start; is `math-verify[antlr4_13_2]` installed?")


class _TimeUp(BaseException):
    """The alarm went off. No `Exception`, since sympy and math-verify catch those."""


def _serve(pipe: Connection, timeout_s: float) -> None:
    """Run a worker until its parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGPROF, _time_up)
    logging.disable(logging.CRITICAL)  # math-verify logs whole answers
    warnings.simplefilter("ignore")
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    _compare("x^2-1", "(x-1)(x+1)")  # the first comparison loads grammars and much of sympy
    pipe.send("ready")
    with suppress(EOFError):
        while True:
            gold, answer = pipe.recv()
            pipe.send(_bounded(gold, answer, timeout_s))


def _time_up(_signal: int, _frame: FrameType | None) -> None:
    raise _TimeUp


def _bounded(gold: str, answer: str, timeout_s: float) -> bool | None:
    try:
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        try:
            return _compare(gold, answer)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
    except (_TimeUp, Exception):  # noqa: BLE001 - whatever an answer breaks, it is a wrong answer
        return False


def _compare(gold: str, answer: str) -> bool | None:
    from math_verify import parse, verify  # noqa: PLC0415 - 1 s of sympy, in workers only

    golds = parse(_as_latex(gold), parsing_timeout=None)
    if not golds:
        return None
    return bool(verify(golds, parse(_as_latex(answer), parsing_timeout=None), timeout_seconds=None))


def _as_latex(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"\\boxed{{{text}}}"
