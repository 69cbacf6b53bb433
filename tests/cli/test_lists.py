"""`runs`, `entries` and `admin usage`: the record of a team, page by page, for people and programs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from rollout_budget.cli import paging
from rollout_budget.client import SyncAllocatorClient
from rollout_budget.wire import CloseGroup, CloseRequest, OpenGroup, OpenRequest, RunSpec
from tests.cli.conftest import Command


@pytest.fixture
def spent(service: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs of the team, one of which opened, drew and closed; lists come in pages of two."""
    url = command("status").out.split(" at ")[1].split(": ")[0]
    with SyncAllocatorClient(url, (service / "team.key").read_text().strip()) as client:
        for run_id in ("first", "second", "third"):
            client.create_run(RunSpec(run_id=run_id, policy="small", k_init=4))
        client.open("first", OpenRequest(groups=[OpenGroup(group_id="g", prompt_key="k", step=7)]))
        client.close("first", CloseRequest(groups=[CloseGroup(group_id="g", used=5, tokens=60)]))
        client.finish_run("second")
    monkeypatch.setattr(paging, "MAX_PAGE", 2)
    return service


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


def test_runs_in_one_list(spent: Path, command: Command) -> None:
    """Whatever the size of a page; a bound and a place to go on from are kept."""
    assert rows(command("runs").out) == [
        ["RUN", "POLICY", "STATUS", "GRANTED", "USED", "HELD"],
        ["first", "small", "running", "4", "5", "0"],
        ["second", "small", "finished", "0", "0", "0"],
        ["third", "small", "running", "0", "0", "0"],
    ]
    assert [row[0] for row in rows(command("runs", "--status", "running").out)[1:]] == ["first", "third"]
    page = command("runs", "--limit", "1", "--json").json()
    assert ([run["run_id"] for run in page["runs"]], page["next"]) == (["first"], "first")
    rest = command("runs", "--after", page["next"], "--json").json()
    assert ([run["run_id"] for run in rest["runs"]], rest["next"]) == (["second", "third"], None)


def test_entries_for_people_and_programs(spent: Path, command: Command) -> None:
    """A table, JSON and CSV say the same; filters and bounds choose lines, and a program goes on from the last."""
    header, *lines = rows(command("entries").out)
    assert header == ["N", "DAY", "KIND", "RUN", "STEP", "ROLLOUTS", "TOKENS", "SECONDS", "RESERVATION"]
    assert [line[2] for line in lines] == ["reserve", "commit", "overage", "close"]
    assert [line[5] for line in lines] == ["4", "4", "1", "0"]
    assert {line[4] for line in lines} == {"7"}
    printed = command("entries", "--json").json()["entries"]
    table = list(csv.DictReader(io.StringIO(command("entries", "--csv").out)))
    assert [line["entry_id"] for line in table] == [str(line["entry_id"]) for line in printed]
    assert [line["policy"] for line in table] == ["small"] * 4
    assert [line[2] for line in rows(command("entries", "--kind", "overage", "--run", "first").out)[1:]] == ["overage"]
    assert command("entries", "--run", "second", "--csv").out.count("\n") == 1
    first = command("entries", "--limit", "3", "--json").json()
    rest = command("entries", "--after", str(first["next"]), "--json").json()
    assert first["entries"] + rest["entries"] == printed


def test_an_admin_reads_any_teams_usage(spent: Path, command: Command) -> None:
    """Of all teams by team, of one by whatever is asked for; as CSV with every figure."""
    command("admin", "teams", "create", "idle")
    assert rows(command("admin", "usage").out)[1][:2] == ["default", "5"]
    mine = command("usage", "--by", "run,policy", "--json").out
    assert command("admin", "usage", "--team", "default", "--by", "run,policy", "--json").out == mine
    assert command("admin", "usage", "--team", "idle", "--json").json()["rows"] == []
    assert command("admin", "usage", "--csv").out.startswith("team,granted,")
    refused = command("admin", "usage", "--team", "nobody", good=False)
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "no team 'nobody'" in refused.err


@pytest.mark.parametrize(
    "words",
    [
        ["entries", "--after", "-1"],
        ["entries", "--limit", "0"],
        ["entries", "--csv", "--json"],
        ["runs", "--status", "x"],
    ],
)
def test_what_cannot_be_meant_is_not_sent(service: Path, command: Command, words: list[str]) -> None:
    refused = command(*words, good=False)
    assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1)
