"""`rollout-budget demo` as JSON: it ends with what it drew, and the ledger has as much."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout_budget.cli.events import Ended, Said
from tests.cli.conftest import Command, event


def test_the_demo_says_what_it_drew_and_the_ledger_agrees(service: Path, command: Command) -> None:
    """Every line is an event; the last counts rollouts by run as usage does."""
    *said, last = map(
        event, command("demo", "--steps", "1", "--pace", "100", "--stamp", "t", "--json").out.splitlines()
    )
    assert all(isinstance(one, Said) for one in said)
    assert isinstance(last, Ended)
    assert (last.reason, last.steps) == ("done", 5)
    rows = command("admin", "usage", "--by", "run", "--json").json()["rows"]
    assert last.rollouts == {row["run"]: row["used"] for row in rows if row["used"]}
    assert len(last.rollouts or {}) == 5


def test_a_wrong_key_and_an_absent_service_are_one_line(service: Path, command: Command) -> None:
    refused = command("demo", "--key-file", str(service / "team.key"), "--steps", "1", good=False)
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "check the key in" in refused.err
    assert command("demo", "--pace", "0", good=False).status == 2


def test_without_a_key_it_says_where_to_put_one(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROLLOUT_BUDGET_ADMIN_KEY", raising=False)
    refused = command("demo", good=False)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "--key-file" in refused.err
