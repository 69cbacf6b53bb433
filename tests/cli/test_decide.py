"""`rollout-budget decide`: the same answer with and without a service, and faults that say where they are."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command

GROUPS: list[dict[str, Any]] = [
    {"group_id": "a", "prior": {"value": 0.3, "standard_error": 0.1}, "outcomes": [1, 0, 0, 1]},
    {"group_id": "b", "outcomes": [1, 1]},
    {"group_id": "c", "prior": {"value": 0.9}},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "groups.json"
    path.write_text(json.dumps(GROUPS))
    return path


@pytest.mark.parametrize(
    "more",
    [(), ("--k-max", "32", "--price", "0.001"), ("--estimator", "v05", "--stopping", "osla", "--budget", "3")],
)
def test_local_and_service_decide_alike(service: Path, command: Command, file: Path, more: tuple[str, ...]) -> None:
    """To the last digit, whatever the settings, and other settings decide otherwise."""
    by_service = command("decide", str(file), *more, "--json").out
    assert command("decide", str(file), *more, "--local", "--json").out == by_service
    assert [group["group_id"] for group in json.loads(by_service)["groups"]] == ["a", "b", "c"]
    assert not more or by_service != command("decide", str(file), "--local", "--json").out


def test_local_needs_neither_service_nor_key(command: Command, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list on standard input and an object in a file are the same; a table says what the JSON does."""
    monkeypatch.delenv("ROLLOUT_BUDGET_KEY", raising=False)
    monkeypatch.setenv("ROLLOUT_BUDGET_URL", "http://127.0.0.1:1")
    answer = command("decide", str(file), "--local", "--json").json()["groups"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"groups": GROUPS, "k_max": 16})))
    header, *lines = command("decide", "-", "--local").out.splitlines()
    assert header.split()[:5] == ["GROUP", "ACTION", "MORE", "DRAWN", "MEAN"]
    assert [line.split()[:4] for line in lines] == [
        [one["group_id"], one["action"], str(one["more"]), str(one["ingredients"]["k"])] for one in answer
    ]


def test_an_option_wins_over_the_file(command: Command, file: Path) -> None:
    """A budget of nothing in the options ends what the file would let go on."""
    file.write_text(json.dumps({"groups": [{"group_id": "a"}], "budget": 9}))
    assert command("decide", str(file), "--local", "--json").json()["groups"][0]["more"] > 0
    stopped = command("decide", str(file), "--local", "--budget", "0", "--json").json()["groups"][0]
    assert (stopped["more"], stopped["reason"]) == (0, "budget_exhausted")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ('[{"group_id": "a",\n "outcomes": [1, 0,]}]', "line 2, column"),
        ("[]", "groups: List should have at least 1 item"),
        ("7", "an object with 'groups'"),
        ('{"k_max": 4}', "groups: Field required"),
        ('[{"group_id": "a"}, {"group_id": "b", "outcome": [1]}]', "groups.1.outcome (group 'b'): Extra inputs"),
        (
            '[{"group_id": "a", "outcomes": [1, "x"]}]',
            "groups.0.outcomes.1 (group 'a'): Input should be a valid number",
        ),
        ('[{"group_id": "a", "outcomes": [1, NaN]}]', "NaN is no number"),
        ('[{"group_id": "a", "outcomes": [1, 7]}]', "group 'a': outcome 7.0 lies outside"),
        ('[{"group_id": "a"}, {"group_id": "a"}]', "id 'a' occurs twice"),
        ('{"groups": [{"group_id": "a"}], "k_init": 9, "k_max": 4}', "k_init 9 exceeds k_max 4"),
        ("[1, 2, 3, 4, 5]", "and 2 more"),
    ],
)
def test_a_fault_is_named_with_its_place(command: Command, file: Path, text: str, advice: str) -> None:
    """In one line, before anything is sent, with the file's name."""
    file.write_text(text)
    refused = command("decide", str(file), "--local", good=False)
    assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert refused.err.startswith(f"rollout-budget: {file}: ")
    assert advice in refused.err


def test_a_file_that_cannot_be_read_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, advice in (("absent", "No such file"), ("bytes", "no text in UTF-8"), (".", "Is a directory")):
        refused = command("decide", str(tmp_path / name), "--local", good=False)
        assert (refused.status, refused.err.count("\n")) == (2, 1)
        assert advice in refused.err
