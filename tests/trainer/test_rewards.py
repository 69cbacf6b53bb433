"""Verifiers are right about honest answers and bounded in time about hostile ones."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from trainer import rewards
from trainer.errors import ConfigError
from trainer.rewards.math_verify import MAX_ANSWER_CHARS, MathVerifier, compare_plainly, final_answer
from trainer.types import Problem

TIMEOUT_S = 0.5


def problem(answer: str) -> Problem:
    return Problem(key="k", prompt="?", answer=answer)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verifier() -> AsyncIterator[MathVerifier]:
    others = set(multiprocessing.active_children())
    made = MathVerifier(timeout_s=TIMEOUT_S)
    yield made
    await made.close()
    assert set(multiprocessing.active_children()) <= others


async def test_exact_takes_the_answer_and_nothing_else() -> None:
    graded = await rewards.get("exact").grade(problem("42"), ["42", " 42\n", "042", "42.", "", "4 2"])
    assert graded == [1, 1, 0, 0, 0, 0]


def test_an_unknown_verifier_is_a_configuration_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="exact, math, countdown"):
        rewards.get("guess")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("42", "so it is \\boxed{42}.", 1),
        ("1/2", "\\boxed{\\frac{1}{2}}", 1),
        ("\\frac{3}{4}", "$0.75$", 1),
        ("x^2-1", "\\boxed{(x-1)(x+1)}", 1),
        ("1000", "1,000", 1),
        ("1/3", "0.333", 0),
        ("5", "\\boxed{5} or \\boxed{6}", 0),
        ("5", "I do not know", 0),
    ],
)
async def test_math_knows_equal_values(verifier: MathVerifier, gold: str, answer: str, outcome: float) -> None:
    assert await verifier.grade(problem(gold), [answer]) == [outcome]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "answer", ["9^{9^{9^9}}", "(10^7)!", "2^{10^{10}}", "9^{387420489}", "(" * 200 + "1" + ")" * 200, "\\frac{1}{0}"]
)
async def test_a_hostile_answer_is_worth_nothing_within_bounds(verifier: MathVerifier, answer: str) -> None:
    """Each costs at most its timeout and its grace, and the next honest answer is graded as before."""
    began = time.monotonic()
    assert await verifier.grade(problem("3x"), [answer]) == [0]
    assert time.monotonic() - began < 20
    assert await verifier.grade(problem("2x"), ["x + x"]) == [1]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_hostile_answer_is_computed_once(verifier: MathVerifier) -> None:
    await verifier.grade(problem("7x"), ["8^{8^{8^8}}"])
    began = time.monotonic()
    assert await verifier.grade(problem("7x"), ["8^{8^{8^8}}"] * 1000) == [0] * 1000
    assert time.monotonic() - began < TIMEOUT_S


async def test_a_worker_that_hears_no_alarm_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process stands for one that is deep in C code."""
    monkeypatch.setattr("trainer.rewards.workers.GRACE_S", 0.1)
    others = set(multiprocessing.active_children())
    made = MathVerifier(workers=1, timeout_s=TIMEOUT_S)
    assert await made.grade(problem("2x"), ["x + x"]) == [1]
    (worker,) = set(multiprocessing.active_children()) - others
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    assert await made.grade(problem("3x"), ["x + x + x"]) == [0]
    assert worker not in multiprocessing.active_children()
    assert await made.grade(problem("4x"), ["2x + 2x"]) == [1]
    await made.close()


def test_the_final_answer_is_what_is_boxed_or_the_end() -> None:
    assert final_answer("a \\boxed{ 7 } b") == "7"
    assert final_answer("I think.\n**Answer:** 7.\n") == "7"
    assert final_answer("Answer: 5\nAnswer: \\frac{1}{2}") == "\\frac{1}{2}"
    assert final_answer("Answer: 5\nor \\boxed{6}") == "6"
    assert final_answer("Answer: 5\nor not") == "Answer: 5\nor not"
    assert final_answer("x" * 10_000) == "x" * MAX_ANSWER_CHARS
    assert not final_answer("\\boxed{" + "1" * (MAX_ANSWER_CHARS + 1) + "}")


@given(st.integers(-(10**49), 10**49), st.integers(-(10**49), 10**49))
def test_plain_integers_are_compared_exactly(first: int, second: int) -> None:
    assert compare_plainly(str(first), f"+{second}" if second >= 0 else str(second)) is (first == second)


@given(st.fractions(), st.integers(1, 10**6))
def test_equal_fractions_are_equal_in_any_terms(value: object, factor: int) -> None:
    numerator, denominator = value.numerator * factor, value.denominator * factor  # type: ignore[attr-defined]
    if max(len(str(numerator)), len(str(denominator))) <= 50:
        assert compare_plainly(f"{numerator}/{denominator}", str(value)) is True


@pytest.mark.parametrize("text", ["1e999999999", "9" * 60, "1/0", "0x10", "1_000", "٣"])
def test_what_is_no_plain_number_is_left_to_the_workers(text: str) -> None:
    assert compare_plainly("3", text) is None
