"""Data sets: presets read the published column layouts from local folders, and unusable rows are left out with a count.

The rows are written here, in the layout that each set's card documents; the hub itself is not asked.
"""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from datasets import Dataset, DatasetDict

from rollout_budget.wire import MAX_PROMPT_CHARS
from trainer import rewards, tasks
from trainer.config import TaskSection
from trainer.errors import ConfigError
from trainer.tasks.huggingface import HuggingFace
from trainer.tasks.presets import BOXED_TEMPLATE, PRESETS, answer_after_hashes, answer_boxed, level_of
from trainer.tasks.rows import CONFLICT, EMPTY_ANSWER, EMPTY_PROMPT, LONG_PROMPT, NOT_TEXT
from trainer.types import Verifier

DAPO_PROMPT = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer"
    " (without quotes) where $Answer is the answer to the problem.\n\nWhat is 6*7?\n\nRemember to put your answer on its own"
    ' line after "Answer:".'
)
LAYOUTS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "gsm8k": {
        "train": [{"question": "Ann has 2 boxes of 600.", "answer": "2*600=<<2*600=1200>>1200 in all\n#### 1,200"}],
        "test": [{"question": "Bob has 3.", "answer": "He has 3.\n#### 3"}],
    },
    "math": {
        "train": [
            {"problem": "Half?", "level": "Level 2", "type": "Algebra", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
            {"problem": "Any?", "level": "Level ?", "type": "Geometry", "solution": "So $\\boxed{x^{2}}$."},
        ],
        "test": [{"problem": "One?", "level": "Level 5", "type": "Algebra", "solution": "\\boxed{1}"}],
    },
    "math500": {
        "test": [
            {
                "problem": "P?",
                "solution": "s",
                "answer": "\\pi",
                "subject": "Algebra",
                "level": 3,
                "unique_id": "test/1",
            }
        ]
    },
    "dapo-math-17k": {
        "train": [
            {
                "data_source": "math_dapo",
                "prompt": [{"content": DAPO_PROMPT, "role": "user"}],
                "ability": "MATH",
                "reward_model": {"ground_truth": "42", "style": "rule-lighteval/MATH_v2"},
                "extra_info": {"index": "a"},
            }
        ]
        * 100
    },
    "aime24": {"train": [{"id": 60, "problem": "Find.", "solution": "s", "answer": "073", "url": "u", "year": "2024"}]},
    "aime25": {"test": [{"problem": "Find it.", "answer": "70", "id": "0"}]},
}
EXPECTED = {
    "gsm8k": ("Ann has 2 boxes of 600.", "1200", 0),
    "math": ("Half?", "\\frac{1}{2}", 2),
    "math500": ("P?", "\\pi", 3),
    "dapo-math-17k": (DAPO_PROMPT, "42", 0),
    "aime24": ("Find.", "073", 0),
    "aime25": ("Find it.", "70", 0),
}


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def folder(place: Path, splits: dict[str, list[dict[str, Any]]], form: str = "parquet") -> str:
    """Write a set as its repository holds it: a file per split, or as `save_to_disk` does."""
    place.mkdir(parents=True)
    made = {name: Dataset.from_list(rows) for name, rows in splits.items()}
    if form == "saved":
        DatasetDict(made).save_to_disk(str(place))
    elif form == "jsonl":
        for name, rows in splits.items():
            (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        for name, rows in made.items():
            rows.to_parquet(place / f"{name}-00000-of-00001.parquet")
    return str(place)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def math() -> AsyncIterator[Verifier]:
    made = rewards.get("math")
    yield made
    await made.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("form", ["parquet", "jsonl", "saved"])
async def test_a_preset_reads_the_published_layout_and_its_own_answer_is_right(
    tmp_path: Path, math: Verifier, name: str, form: str
) -> None:
    """The prompt is asked as usual, the answer is found where the set keeps it, and the verifier takes it."""
    path = folder(tmp_path / "set", LAYOUTS[name], form)
    section = TaskSection.model_validate(
        {"name": "huggingface", "huggingface": {"dataset": name, "path": path, "held_out_share": 0}}
    )
    task = tasks.get("huggingface", section.options)
    prompt, answer, level = EXPECTED[name]
    problem = task.train()[0]
    template = "{prompt}" if name == "dapo-math-17k" else BOXED_TEMPLATE
    assert (problem.prompt, problem.answer, problem.level) == (template.replace("{prompt}", prompt), answer, level)
    assert len(task.train()) == len({json.dumps(row) for row in LAYOUTS[name][PRESETS[name].split]})
    assert len(task.held_out()) == (1 if name in {"gsm8k", "math"} else 0)
    assert section.verifier == "math"
    said = f"It follows.\nAnswer: {answer}" if name == "dapo-math-17k" else f"So $\\boxed{{{answer}}}$."
    assert await math.grade(problem, [said, "I do not know."]) == [1.0, 0.0]


def test_one_set_is_trained_on_and_another_measured_on(tmp_path: Path) -> None:
    """The held-out set has its own columns and split, and a prompt in both is not trained on."""
    train = LAYOUTS["math"]["train"] + [
        {"problem": "Find it.", "level": "Level 1", "type": "-", "solution": "\\boxed{70}"}
    ]
    task = HuggingFace(
        "math",
        path=folder(tmp_path / "math", {"train": train, "test": LAYOUTS["math"]["test"]}),
        held_out_dataset="aime25",
        held_out_path=folder(tmp_path / "aime", LAYOUTS["aime25"]),
    )
    assert [problem.answer for problem in task.held_out()] == ["70"]
    assert [problem.answer for problem in task.train()] == ["\\frac{1}{2}", "x^{2}"]


def test_any_set_is_told_its_columns(tmp_path: Path) -> None:
    """Nested fields, messages, a template with other braces, a key, a level, and a share held out by key."""
    rows: list[dict[str, Any]] = [
        {"ask": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{place}{{}}?"}],
         "truth": {"value": place}, "id": f"k{place}", "hard": "3"}
        for place in range(60)
    ]  # fmt: skip
    task = HuggingFace(
        folder(tmp_path / "own", {"validation": rows}),
        split="validation",
        prompt_field="ask",
        answer_field="truth.value",
        key_field="id",
        level_field="hard",
        template="Q: {prompt} {x}",
        held_out_share=0.3,
    )
    problems = {problem.key: problem for problem in [*task.train(), *task.held_out()]}
    assert len(problems) == 60
    assert 5 < len(task.held_out()) < 35
    one = problems["k7"]
    assert (one.prompt, one.answer, one.level) == ("Q: Be brief.\n\n7{}? {x}", "7", 3)


def test_rows_without_a_prompt_or_an_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "good", "answer": "1"},
        {"prompt": None, "answer": "1"},
        {"prompt": " \n", "answer": "1"},
        {"prompt": "p", "answer": None},
        {"prompt": "x" * (MAX_PROMPT_CHARS + 1), "answer": "1"},
        {"prompt": "good", "answer": "another"},
    ]
    task = HuggingFace(folder(tmp_path / "own", {"train": rows}), held_out_share=0.0)
    assert [problem.prompt for problem in task.train()] == ["good"]
    assert task.left_out == {EMPTY_PROMPT: 2, EMPTY_ANSWER: 1, LONG_PROMPT: 1, CONFLICT: 1}
    assert tasks.notice(task) == (
        f"task huggingface left out 2 with {EMPTY_PROMPT}, 1 with {EMPTY_ANSWER}, 1 with {LONG_PROMPT}, 1 with {CONFLICT}"
    )


def test_lines_without_a_prompt_or_an_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"prompt": "good", "answer": "1"},
        {"prompt": "", "answer": "1"},
        {"prompt": "\t", "answer": "1"},
        {"prompt": "p", "answer": ""},
        {"prompt": "x" * (MAX_PROMPT_CHARS + 1), "answer": "1"},
        {"prompt": "half \ud800", "answer": "1"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = tasks.Jsonl(str(path), held_out_share=0.0)
    assert [problem.prompt for problem in task.train()] == ["good"]
    assert task.left_out == {EMPTY_PROMPT: 2, EMPTY_ANSWER: 1, LONG_PROMPT: 1, NOT_TEXT: 1}
    assert tasks.notice(tasks.Arithmetic()) is None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(ConfigError, match=r"leaves no problem to train on \(2 with empty prompt, 1 with empty answer"):
        tasks.Jsonl(str(path))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "dev"}, "cannot read split 'dev'"),
        ({"prompt_field": "question"}, "no field 'question', only 'prompt', 'answer'"),
        ({"answer_field": "prompt.x"}, "no field 'prompt.x'"),
        ({"prompt_field": "flag"}, "no field 'flag'"),
        ({"template": "no place"}, r"template: \{prompt\} must stand"),
        ({"answer_form": "xml"}, "answer_form: 'xml' is none of plain, after_hashes, boxed"),
        ({"answer_form": "boxed"}, r"leaves no problem to train on \(1 with empty answer\)"),
        ({"held_out_share": 1.0}, "must lie in"),
        ({"path": "/no/such/folder"}, "there is no folder /no/such/folder"),
        ({"dataset": "./no/such/folder"}, r"there is no folder ./no/such/folder"),
        ({"columns": "x"}, "huggingface has no such option"),
    ],
)
def test_a_mistake_is_said_in_one_line(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    path = folder(tmp_path / "own", {"train": [{"prompt": "p", "answer": "1"}]})
    with pytest.raises(ConfigError, match=told) as caught:
        tasks.get("huggingface", {"dataset": path, **options})
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline mode stands for a machine without a hub: the library refuses at once with the error it has for both."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"openai/gsm8k.*task\.huggingface\.path.*HF_HUB_OFFLINE=1") as caught:
        HuggingFace("gsm8k")
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_said_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'rollout-budget\[trainer-data\]'"):
        HuggingFace("gsm8k")


def test_other_tasks_do_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is imported until a set is read."""
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        assert not name.startswith("datasets")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert tasks.get("sorting").train()


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1} or \\boxed{2}", "2"),
        ("\\boxed 5", "5"),
        ("\\fbox{7}", "7"),
        ("\\boxed{ \\text{(A)} }", "\\text{(A)}"),
        ("\\boxed{1", ""),
        ("none", ""),
    ],
)
def test_the_boxed_answer_of_a_solution(solution: str, answer: str) -> None:
    assert answer_boxed(solution) == answer


def test_the_answer_after_the_hashes() -> None:
    assert answer_after_hashes("a #### b\n#### 1,234 ") == "1234"
    assert not answer_after_hashes("no mark")


@pytest.mark.parametrize(("told", "level"), [(3, 3), ("3", 3), ("Level 4", 4), ("Level ?", 0), (None, 0)])
def test_levels_are_whole_numbers(told: object, level: int) -> None:
    assert level_of(told) == level
