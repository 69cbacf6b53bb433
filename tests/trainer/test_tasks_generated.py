"""Generated tasks: demonstrations are graded right by the task's own verifier, sets are disjoint and follow from a seed."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import rewards, tasks
from trainer.config import TaskSection
from trainer.errors import ConfigError
from trainer.policy import ALPHABET, Demonstrating
from trainer.tasks import modular
from trainer.tasks.countdown import Countdown
from trainer.tasks.countdown import given as given_by
from trainer.tasks.expressions import MAX_CHARS, NotAnExpression, evaluate
from trainer.tasks.generated import MAX_ANSWER_CHARS, Generated
from trainer.tasks.modular import Modular
from trainer.types import Problem

NAMES = ("arithmetic", "modular", "countdown", "sorting")
MAX_PROMPT_CHARS = 24


def made(name: str, **options: Any) -> Generated:
    task = tasks.get(name, options)
    assert isinstance(task, Generated)
    return task


def levels_of(task: Generated) -> range:
    return range(task.first_level, task.last_level + 1)


@pytest.mark.parametrize("name", NAMES)
async def test_every_demonstration_is_graded_right_and_a_wrong_answer_is_not(name: str) -> None:
    """The answers shown in a warm-up are those that the verifier of the same task rewards, at every level."""
    verifier = rewards.get(TaskSection.model_validate({"name": name}).verifier)
    first = made(name)
    task = made(name, size=1, held_out_size=0, levels=list(levels_of(first)))
    assert isinstance(task, Demonstrating)
    seen: Counter[int] = Counter()
    for problem in itertools.islice(task.demonstrations(), 300):
        right, wrong = problem.answer, [problem.answer + "0", problem.answer[:-1], "", "?", problem.prompt]
        assert await verifier.grade(problem, [right, f" {right}\n", *wrong]) == [1, 1, 0, 0, 0, 0, 0]
        seen[problem.level] += 1
    assert set(seen) == set(levels_of(task))


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(NAMES), st.integers(1, 150), st.integers(0, 50), st.integers(0, 2**31))
def test_sets_are_distinct_disjoint_short_and_printable(name: str, size: int, held: int, seed: int) -> None:
    task = made(name, size=size, held_out_size=held, seed=seed)
    problems = [*task.train(), *task.held_out()]
    assert (len(task.train()), len(task.held_out())) == (size, held)
    assert len({problem.key for problem in problems}) == len({problem.prompt for problem in problems}) == size + held
    held_out = {problem.prompt for problem in task.held_out()}
    assert not held_out & {problem.prompt for problem in itertools.islice(task.demonstrations(seed), 200)}
    for problem in problems:
        assert set(problem.prompt + problem.answer) <= set(ALPHABET)
        assert len(problem.prompt) <= MAX_PROMPT_CHARS
        assert len(problem.answer) <= MAX_ANSWER_CHARS
        assert problem.level in task.levels


@pytest.mark.parametrize("name", NAMES)
def test_the_highest_levels_stay_short(name: str) -> None:
    task = made(name, size=200, held_out_size=0, levels=[made(name).last_level])
    assert max(len(problem.prompt) for problem in task.train()) <= MAX_PROMPT_CHARS
    if name != "arithmetic":  # nine digits are for other policies than the demo's
        assert max(len(problem.answer) for problem in task.train()) <= MAX_ANSWER_CHARS


@pytest.mark.parametrize("name", NAMES)
def test_everything_follows_from_the_seed(name: str) -> None:
    assert made(name, seed=1).train() == made(name, seed=1).train()
    assert made(name, seed=1).train() != made(name, seed=2).train()
    one, again = (list(itertools.islice(made(name).demonstrations(3), 50)) for _ in range(2))
    assert one == again
    assert made(name, size=10).held_out() == made(name, size=4000).held_out()


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_of_the_default_levels_can_be_larger_than_a_run(name: str) -> None:
    assert len({problem.key for problem in made(name, size=20_000).train()}) == 20_000


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_and_the_task_have_the_same_levels(name: str) -> None:
    """A level that the task has is a level that a file may name, and no other is."""
    levels = levels_of(made(name))
    assert TaskSection.model_validate({"name": name, name: {"levels": list(levels)}}).options["levels"] == list(levels)
    for level in (levels.start - 1, levels.stop):
        with pytest.raises(ValueError, match="levels"):
            TaskSection.model_validate({"name": name, name: {"levels": [level]}})
        with pytest.raises(ConfigError, match=rf"task\.{name}\.levels: .* between"):
            made(name, levels=[level])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sorting", {"levels": [1], "size": 10_001, "held_out_size": 10_000}),
        ("countdown", {"levels": [1], "size": 50_000}),
    ],
)
def test_a_pool_that_does_not_fit_says_what_to_ask_for(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"task\.{name}: {options['size']} problems do not fit .* ask for fewer"):
        made(name, **options)


def test_a_level_can_be_used_up() -> None:
    """All 10,000 lists of four digits are problems, in either order: the count of a level is exact, not a bound."""
    task = made("sorting", levels=[1], size=10_000, held_out_size=10_000)
    assert len({problem.key for problem in [*task.train(), *task.held_out()]}) == 20_000


def test_the_size_of_a_modular_level_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formula equals the number of prompts that a long draw meets, for a shape small enough to see them all."""
    monkeypatch.setattr(modular, "SHAPES", {1: modular.Shape(operations=2, operands=3, smallest=2, largest=4)})
    task = Modular(size=1, held_out_size=0, levels=[1])
    met = {problem.prompt for problem in itertools.islice(task.demonstrations(), 9000)}
    assert task.level_size(1) == len(met) == 3**3 * 3**2 * 3


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(range(1, Modular.last_level + 1)))
def test_modular_answers_are_those_of_python(seed: int, level: int) -> None:
    (problem,) = Modular(size=1, held_out_size=0, levels=[level], seed=seed).train()
    assert str(eval(problem.prompt[:-1])) == problem.answer  # noqa: S307 - our own prompt


def test_every_countdown_problem_has_its_numbers_in_order_and_a_solution_with_all_of_them() -> None:
    task = Countdown(size=2000, held_out_size=0, levels=[1, 2, 3])
    for problem in task.train():
        numbers, target = given_by(problem.prompt)
        assert list(numbers) == sorted(numbers)
        assert target not in numbers
        assert sorted(evaluate(problem.answer).numbers) == list(numbers)
        assert evaluate(problem.answer).value == target


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("2*3+7", 1),
        ("7+2*3", 1),
        ("(2*3)+7", 1),
        ("3*2 + 7", 1),
        ("13", 0),
        ("2*3+7=13", 0),
        ("3+3+7", 0),
        ("2*3+7+0", 0),
        ("7+7-1", 0),
        ("2*3+", 0),
        ("(2*3+7", 0),
        ("-2*3+7", 0),
        ("2**3+7", 0),
        ("2*3+7" + " " * 70 + "+0", 0),
        ("__import__('os')", 0),
        ("(" * 60 + "2", 0),
        ("9" * 500, 0),
        ("٢*3+7", 0),
        ("", 0),
    ],
)
async def test_countdown_is_computed_and_each_number_serves_once(text: str, outcome: float) -> None:
    problem = Problem("k", "2,3,7:13=", "2*3+7")
    assert await rewards.get("countdown").grade(problem, [text]) == [outcome]


async def test_countdown_does_not_need_every_number() -> None:
    assert await rewards.get("countdown").grade(Problem("k", "2,3,7:21=", "?"), ["3*7"]) == [1]


async def test_countdown_refuses_problems_of_other_tasks() -> None:
    with pytest.raises(ValueError, match="no countdown prompt"):
        await rewards.get("countdown").grade(Problem("k", "1+1=", "2"), ["2"])


EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*"), inner).map("({0[0]}{0[1]}{0[2]})".format)
        | st.tuples(inner, st.sampled_from("+-*"), inner).map("{0[0]}{0[1]}{0[2]}".format)
    ),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_expressions_have_the_value_that_python_gives_them(text: str) -> None:
    if len(text) <= MAX_CHARS:
        assert evaluate(text).value == eval(text)  # noqa: S307 - made of digits, signs and brackets above


@given(st.text(alphabet="0123456789+-*() ", max_size=80))
def test_any_text_has_a_value_or_is_no_expression(text: str) -> None:
    try:
        assert isinstance(evaluate(text).value, int)
    except NotAnExpression:
        assert text.strip() != "1"
