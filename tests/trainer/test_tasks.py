"""Tasks follow from their options alone, keep held-out problems out of training, and name a bad line."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import tasks
from trainer.errors import ConfigError
from trainer.tasks.arithmetic import ALPHABET, Arithmetic, level_size
from trainer.tasks.jsonl import Jsonl
from trainer.types import Problem


def value(problem: Problem) -> int:
    """Evaluate a prompt such as `12+345=` on its own."""
    expression = problem.prompt.removesuffix("=")
    sign = "+" if "+" in expression else "-"
    first, second = map(int, expression.split(sign))
    return first + second if sign == "+" else first - second


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(0, 60), st.sets(st.integers(1, 9), min_size=1), st.integers(0, 2**31))
def test_arithmetic_is_right_distinct_and_disjoint(size: int, held: int, levels: set[int], seed: int) -> None:
    if levels == {1} and (held > 77 or size > 155 - held):
        return
    task = Arithmetic(size=size, held_out_size=held, levels=sorted(levels), seed=seed)
    assert (len(task.train()), len(task.held_out())) == (size, held)
    problems = [*task.train(), *task.held_out()]
    assert len({problem.key for problem in problems}) == size + held
    shown = {problem.key for problem in itertools.islice(task.demonstrations(seed), 200)}
    assert not shown & {problem.key for problem in task.held_out()}
    for problem in problems:
        assert value(problem) == int(problem.answer) >= 0
        assert set(problem.prompt + problem.answer) <= set(ALPHABET)
        assert max(len(number) for number in problem.prompt[:-1].replace("-", "+").split("+")) == problem.level
        assert problem.level in levels


def test_the_same_options_give_the_same_problems_and_another_seed_others() -> None:
    assert Arithmetic(seed=1).train() == Arithmetic(seed=1).train()
    assert Arithmetic(seed=1).train() != Arithmetic(seed=2).train()
    first, again = (list(itertools.islice(Arithmetic().demonstrations(3), 50)) for _ in range(2))
    assert first == again


def test_held_out_problems_do_not_depend_on_the_size_of_the_pool() -> None:
    assert Arithmetic(size=10).held_out() == Arithmetic(size=4000).held_out()


def test_levels_share_evenly_and_a_small_level_leaves_its_rest_to_the_others() -> None:
    assert level_size(1) == 155
    assert Counter(problem.level for problem in Arithmetic(size=4000).train()) == {1: 91, 2: 1303, 3: 1303, 4: 1303}
    assert Counter(problem.level for problem in Arithmetic().held_out()) == {1: 64, 2: 64, 3: 64, 4: 64}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "task.arithmetic.size"),
        ({"levels": []}, "task.arithmetic.levels"),
        ({"levels": [0]}, "task.arithmetic.levels"),
        ({"levels": [1], "size": 150, "held_out_size": 50}, "do not fit"),
        ({"digits": 3}, "task.arithmetic.digits: arithmetic has no such option"),
    ],
)
def test_bad_options_are_configuration_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks.get("arithmetic", options)


def test_an_unknown_task_is_a_configuration_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="arithmetic, modular, countdown, sorting, jsonl"):
        tasks.get("chess")


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_jsonl_reads_the_named_fields(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"q": "1+1?", "a": 2, "id": "x", "hard": 3},
        "",
        {"q": "é", "a": "½", "id": "y", "hard": 0},
    )
    task = Jsonl(path, prompt_field="q", answer_field="a", key_field="id", level_field="hard", held_out_share=0.0)
    assert list(task.train()) == [Problem("x", "1+1?", "2", 3), Problem("y", "é", "½", 0)]
    assert not task.held_out()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected an object, found list"),
        ('{"prompt": "p"}', "line 2: no field 'answer', only 'prompt'"),
        ('{"prompt": "p", "answer": null}', "line 2: field 'answer' must be text or a number"),
        ('{"prompt": "p", "answer": true}', "line 2: field 'answer' must be text or a number"),
        ('{"prompt": "same", "answer": "other"}', "line 2: key .* occurred before with another prompt or answer"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "same", "answer": "1"}, line)
    with pytest.raises(ConfigError, match=message):
        tasks.get("jsonl", {"path": path})


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b""])
def test_a_file_that_cannot_be_used_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"task\.jsonl\.path"):
        Jsonl(str(path))


def test_a_prompt_that_occurs_twice_alike_is_kept_once(tmp_path: Path) -> None:
    row = {"prompt": "p", "answer": "1"}
    assert len(Jsonl(write(tmp_path / "a.jsonl", row, row), held_out_share=0.0).train()) == 1


def test_the_hash_split_is_stable_when_lines_come_and_go(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{place}", "answer": "1"} for place in range(500)]
    whole = Jsonl(write(tmp_path / "a.jsonl", *rows), held_out_share=0.2)
    half = Jsonl(write(tmp_path / "b.jsonl", *rows[::-2]), held_out_share=0.2)
    assert 60 < len(whole.held_out()) < 140
    assert not set(whole.train()) & set(whole.held_out())
    assert set(half.held_out()) < set(whole.held_out())
    assert set(half.train()) < set(whole.train())


def test_held_out_lines_never_train(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", {"prompt": "p", "answer": "1"}, {"prompt": "q", "answer": "2"})
    held = write(tmp_path / "b.jsonl", {"prompt": "q", "answer": "2"})
    task = Jsonl(train, held_out_path=held)
    assert [problem.prompt for problem in task.train()] == ["p"]
    assert [problem.prompt for problem in task.held_out()] == ["q"]
