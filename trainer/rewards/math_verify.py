"""Mathematical equality by math-verify, which a policy under training will try to break.

An answer such as 9^{9^{9^9}} makes sympy compute for ever, or use all memory. So each comparison runs in a worker process,
bounded in time and memory (`trainer.rewards.workers`). Most answers never get that far: equal texts and plain numbers are
compared here, and every comparison is made once.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from fractions import Fraction

from trainer.rewards.workers import TIMEOUT_S, WORKERS, Failure, Limits, WorkerPool
from trainer.types import Problem

log = logging.getLogger(__name__)

MAX_ANSWER_CHARS = 500
"""Only the end of a completion without one \\boxed{} is looked at; a longer answer inside one is worth 0."""
MAX_CACHED = 65_536
"""Comparisons remembered: some 60 MB at worst."""

_ANSWER_LINE = re.compile(r"[*\s]{0,8}answer[*\s]{0,8}:[*\s]{0,8}(.+)", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_INTEGER = re.compile(r"[+-]?\d{1,50}", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d{1,50}(\.\d{1,50}|/0*[1-9]\d{0,49})?", re.ASCII)


class MathVerifier:
    """Obeys `trainer.types.Verifier`; workers start with the first answer that needs one."""

    def __init__(self, *, workers: int = WORKERS, timeout_s: float = TIMEOUT_S) -> None:
        self._pool = WorkerPool(load, limits=Limits(workers, timeout_s))
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
        await self._pool.close()

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
        verdict = await self._pool.call(gold, answer)
        if verdict is None:
            log.warning("math-verify cannot read the answer of a problem: %r; only an equal text will be right", gold)
        return bool(verdict) and not isinstance(verdict, Failure)


def final_answer(text: str) -> str:
    r"""Return what a completion answers: the content of its only plain `\boxed{}`, else a last line `Answer: ...`.

    Where there is neither, the end of the text; more than one box too, for math-verify to judge.
    """
    boxed = _BOXED.findall(text)
    if len(boxed) == 1:
        content = str(boxed[0]).strip()
        return content if len(content) <= MAX_ANSWER_CHARS else ""
    end = text.strip()[-MAX_ANSWER_CHARS:]
    named = _ANSWER_LINE.match(end.rpartition("\n")[2])
    return named[1].strip(" *.") if named and "\\boxed" not in text else end


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


def load() -> Callable[[str, str], bool | None]:
    """Return the comparison of math-verify, ready to use: None where the first answer cannot be read."""
    _compare("x^2-1", "(x-1)(x+1)")  # the first comparison loads grammars and much of sympy
    return _compare


def _compare(gold: str, answer: str) -> bool | None:
    from math_verify import parse, verify  # noqa: PLC0415 - 1 s of sympy, in workers only

    golds = parse(_as_latex(gold), parsing_timeout=None)
    if not golds:
        return None
    return bool(verify(golds, parse(_as_latex(answer), parsing_timeout=None), timeout_seconds=None))


def _as_latex(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"\\boxed{{{text}}}"
