"""Folders of both formats, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.prior_api.evaluate.data import DataError, Row, facts, load
from tests.paths import outcomes_folder
from tests.prior_api.evaluate.synthetic import law, lines, write

GOOD = {"policy": "m", "version": 1, "key": "a", "successes": 1, "trials": 2}
PROMPT = {"key": "a", "text": "A?"}


def test_a_plain_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Rows, their order and texts survive the way through the files."""
    outcomes = law(0)
    assert load(write(outcomes, tmp_path)) == outcomes


def test_the_sample_format_is_converted_to_successes(tmp_path: Path) -> None:
    """A score in [-1, 1], the mean of ten outcomes in {-1, +1}, becomes successes of ten."""
    rows = [
        {"model": "m", "step": 16, "dataset": "d", "id": place, "score": score, "type": "x"}
        for place, score in enumerate((-1.0, -0.2, 0.0, 1.0))
    ]
    lines(tmp_path / "context.jsonl", rows)
    (tmp_path / "prompts.json").write_text(json.dumps({f"d_{place}": f"text {place}" for place in range(4)}))
    outcomes = load(tmp_path)
    assert [row.successes for row in outcomes.rows["m", 16]] == [0, 4, 5, 10]
    assert [row.prompt for row in outcomes.rows["m", 16]] == ["d_0", "d_1", "d_2", "d_3"]
    assert outcomes.texts["d_3"] == "text 3"


def test_the_real_sample_is_read_whole() -> None:
    found = facts(load(outcomes_folder()))
    assert found == {"policies": 2, "keys": 6, "rows": 3072, "prompts": 2537, "trials_median": 10}


def test_rows_of_one_prompt_are_added_up_and_equal_texts_are_one_prompt(tmp_path: Path) -> None:
    """Otherwise a held-back prompt could stand in its own evidence under another key."""
    lines(
        tmp_path / "outcomes.jsonl",
        [GOOD, GOOD | {"successes": 2}, GOOD | {"key": "b", "trials": 4}, GOOD | {"key": "c"}],
    )
    lines(tmp_path / "prompts.jsonl", [PROMPT, {"key": "b", "text": "A?"}])
    outcomes = load(tmp_path)
    assert outcomes.rows == {("m", 1): [Row("m", 1, "a", 4, 8), Row("m", 1, "c", 1, 2)]}
    assert [note.split()[0] for note in outcomes.notes] == ["1", "2", "1"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds neither outcomes.jsonl nor context.jsonl"),
        ({"outcomes.jsonl": [GOOD]}, "there is no {folder}/prompts.jsonl"),
        ({"outcomes.jsonl": [], "prompts.jsonl": []}, "the folder holds no outcomes"),
        ({"outcomes.jsonl": [GOOD, GOOD | {"successes": 3}], "prompts.jsonl": []}, "outcomes.jsonl, line 2: 3 successes in 2 trials"),
        ({"outcomes.jsonl": [GOOD, {"policy": "m"}], "prompts.jsonl": []}, "outcomes.jsonl, line 2: version: Field required"),
        ({"outcomes.jsonl": [GOOD | {"version": -1}], "prompts.jsonl": []}, "outcomes.jsonl, line 1: version"),
        ({"outcomes.jsonl": [GOOD | {"version": True}], "prompts.jsonl": []}, "outcomes.jsonl, line 1: version"),
        ({"outcomes.jsonl": [GOOD | {"trials": 0}], "prompts.jsonl": []}, "outcomes.jsonl, line 1: trials"),
        ({"outcomes.jsonl": [GOOD | {"successes": float("nan")}], "prompts.jsonl": []}, "outcomes.jsonl, line 1: successes"),
        ({"outcomes.jsonl": [GOOD], "prompts.jsonl": [PROMPT, {"key": "b"}]}, "prompts.jsonl, line 2: text: Field required"),
        ({"context.jsonl": []}, "there is no {folder}/prompts.json"),
    ],
)  # fmt: skip
def test_what_is_broken_is_named_with_its_line(
    tmp_path: Path, files: dict[str, list[dict[str, object]]], message: str
) -> None:
    for name, objects in files.items():
        lines(tmp_path / name, objects)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert message.format(folder=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("score", [1.2, 0.33, "high"])
def test_a_score_that_no_ten_outcomes_have_is_refused(tmp_path: Path, score: object) -> None:
    lines(tmp_path / "context.jsonl", [{"model": "m", "step": 1, "dataset": "d", "id": 1, "score": score}])
    (tmp_path / "prompts.json").write_text("{}")
    with pytest.raises(DataError, match=r"context\.jsonl, line 1"):
        load(tmp_path)


def test_lines_that_are_no_json_and_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    lines(tmp_path / "prompts.jsonl", [PROMPT])
    (tmp_path / "outcomes.jsonl").write_text(json.dumps(GOOD) + "\n\nnothing\n")
    with pytest.raises(DataError, match=r"outcomes\.jsonl, line 3: Invalid JSON"):
        load(tmp_path)
    (tmp_path / "outcomes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"outcomes\.jsonl cannot be read"):
        load(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        load(tmp_path / "elsewhere")
