"""`rollout-budget` against a real allocator: what each command does, prints and refuses."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from rollout_budget.cli import limits, team
from rollout_budget.cli.completion import Script
from rollout_budget.cli.doctor.report import Report
from rollout_budget.cli.live.sampling import Snapshot
from rollout_budget.cli.main import parser
from rollout_budget.cli.parsing import Parser
from rollout_budget.wire import (
    BudgetView,
    ChangesAnswer,
    DecideAnswer,
    EntriesAnswer,
    Key,
    KeysAnswer,
    KeySecret,
    RunsAnswer,
    Team,
    TeamLimits,
    TeamsAnswer,
    UsageAnswer,
    Wire,
)
from services.allocator.app import create_app
from services.allocator.settings import Settings
from tests.allocator.databases import fresh_sqlite
from tests.cli.conftest import Command
from tests.paths import ROOT
from tests.ports import free_port
from tests.served import served

JSON_COMMANDS: list[tuple[type[Wire], list[str]]] = [
    (Team, ["admin", "teams", "create", "vision", "--rollouts", "20_000", "--rollouts-per-day", "2000"]),
    (Team, ["admin", "teams", "show", "vision"]),
    (Team, ["admin", "teams", "rename", "vision", "Vision"]),
    (TeamsAnswer, ["admin", "teams", "list"]),
    (BudgetView, ["admin", "budget", "show", "vision"]),
    (BudgetView, ["admin", "budget", "set", "vision", "--rollouts", "9"]),
    (KeySecret, ["admin", "keys", "create", "vision", "--scope", "read", "--expires-in", "90d"]),
    (KeysAnswer, ["admin", "keys", "list", "--team", "vision"]),
    (KeySecret, ["admin", "keys", "rotate", "KEY", "--grace", "1d"]),
    (Key, ["admin", "keys", "revoke", "KEY"]),
    (Team, ["admin", "teams", "close", "vision"]),
    (Team, ["admin", "teams", "reopen", "vision"]),
    (ChangesAnswer, ["admin", "changes", "--team", "vision"]),
    (BudgetView, ["budget"]),
    (BudgetView, ["status"]),
    (UsageAnswer, ["usage", "--by", "run,day"]),
    (UsageAnswer, ["admin", "usage", "--team", "vision", "--by", "day"]),
    (RunsAnswer, ["runs", "--status", "running"]),
    (EntriesAnswer, ["entries", "--kind", "overage"]),
    (ChangesAnswer, ["changes"]),
    (Snapshot, ["top", "--once"]),
    (DecideAnswer, ["decide", "GROUPS"]),
    (Report, ["doctor"]),
    (Script, ["completion", "zsh"]),
]
ELSEWHERE = {
    ("up",): "tests/cli/test_up.py",
    ("demo",): "tests/cli/test_demo.py",
    ("replay",): "tests/replay/test_command.py",
}
"""Commands whose JSON other tests read: those that go on print a line for each event."""
NEW = "--limit-of-tomorrow"


def leaves(one: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every parser below one, groups included, by the words that lead to it."""
    found = {path: one}
    for action in one._actions:
        for name, below in (getattr(action, "choices", None) or {}).items() if action.dest == "==SUPPRESS==" else ():
            found |= leaves(below, (*path, name))
    return found


def test_json_of_every_command_is_its_wire_type(service: Path, command: Command) -> None:
    """And the lists of this file name every command."""
    places = {"GROUPS": str(service / "groups.json"), "KEY": ""}
    Path(places["GROUPS"]).write_text('[{"group_id": "a", "outcomes": [1, 0]}]')
    for kind, words in JSON_COMMANDS:
        printed = command(*[places.get(word, word) for word in words], "--json").out
        answer = kind.model_validate_json(printed)
        assert answer.model_dump_json(indent=2) + "\n" == printed
        places["KEY"] = getattr(answer, "key_id", places["KEY"])
    runnable = {path: one for path, one in leaves(parser()).items() if one.get_default("run")}
    named = {path for path in runnable for _, words in JSON_COMMANDS if path == tuple(words[: len(path)])}
    assert named | set(ELSEWHERE) == set(runnable)
    assert all('"--json"' in (ROOT / file).read_text() for file in ELSEWHERE.values())
    assert all("--json" in one._option_string_actions for one in runnable.values())


def test_every_level_teaches_with_an_example(command: Command) -> None:
    """`--help` of every command and group exits with 0, says what it does and shows how."""
    for path, one in leaves(parser()).items():
        shown = command(*path, "--help").out
        assert "examples:\n  " in shown, path
        assert f"rollout-budget {' '.join(path)}".strip() in shown.split("examples:")[1], path
        assert one.description, path


def test_a_key_is_never_an_argument() -> None:
    """No option takes a token, and none is guessed from its beginning (`--key` is not `--key-file`)."""
    for path, one in leaves(parser()).items():
        options = {option for action in one._actions for option in action.option_strings}
        assert not options & {"--key", "--token", "--api-key"}, path
        assert isinstance(one, Parser)
        assert not one.allow_abbrev


def test_only_the_limits_named_change(service: Path, command: Command) -> None:
    """`none` lifts one, `--replace` lifts what is not named, and a command that names nothing is not understood."""
    command("admin", "teams", "create", "vision", "--rollouts", "20_000", "--rollouts-per-day", "2000")

    def after(*words: str) -> dict[str, Any]:
        view: dict[str, Any] = command("admin", "budget", "set", "vision", *words, "--json").json()
        return {name: view["limits"][name] for name in ("rollouts", "rollouts_per_day", "rollouts_per_month")}

    both = {"rollouts": 20_000, "rollouts_per_day": 500, "rollouts_per_month": None}
    assert after("--rollouts-per-day", "500") == both
    assert after("--rollouts", "none") == {**both, "rollouts": None}
    assert after("--rollouts-per-month", "7") == {**both, "rollouts": None, "rollouts_per_month": 7}
    assert after("--replace", "--rollouts", "5") == {
        "rollouts": 5,
        "rollouts_per_day": None,
        "rollouts_per_month": None,
    }
    assert after("--replace") == dict.fromkeys(both)
    for words in ([], ["--rollouts", "many"], ["--rollouts", "-1"], ["--rollouts", "1.5"]):
        refused = command("admin", "budget", "set", "vision", *words, good=False)
        assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1), words


def test_a_new_limit_has_its_option_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options come from the fields of the wire type: numbers, choices, descriptions."""

    class Tomorrow(TeamLimits):
        limit_of_tomorrow: float | None = Field(default=None, description="At most 100% of tomorrow.")

    monkeypatch.setattr(limits, "TeamLimits", Tomorrow)
    shown = parser()
    assert f"{NEW} X" in leaves(shown)["admin", "budget", "set"].format_help()
    words = ["admin", "budget", "set", "vision", NEW, "0.5"]
    assert limits.named(shown.parse_args(words)) == {"limit_of_tomorrow": 0.5}


def test_a_new_token_is_shown_once_and_kept_in_a_file(service: Path, command: Command, tmp_path: Path) -> None:
    """The file is its owner's alone; one that is there already is never overwritten, and then no key is made."""
    file = tmp_path / "made.key"
    words = ["admin", "keys", "create", "default", "--label", "trainer", "--file", str(file)]
    made = command(*words, "--json").json()
    assert file.read_text() == made["token"] + "\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert command("status", "--key-file", str(file)).out.startswith("ok: team default at http://127.0.0.1:")
    refused = command(*words, good=False)
    assert refused.status == 2
    assert "name a new file" in refused.err
    listed = command("admin", "keys", "list", "--team", "default").out
    assert made["token"] not in listed
    assert listed.count("trainer") == 1


def test_nothing_is_left_in_the_file_of_a_key_that_was_refused(service: Path, command: Command, tmp_path: Path) -> None:
    refused = command("admin", "keys", "create", "nobody", "--file", str(tmp_path / "no.key"), good=False)
    assert refused.status == 1
    assert "no team 'nobody'" in refused.err
    assert not (tmp_path / "no.key").exists()


def test_rotation_keeps_both_keys_until_the_grace_ends(service: Path, command: Command, tmp_path: Path) -> None:
    """With a grace both work; with none the old one is refused at once; a second rotation is told its successor."""
    paths = [str(tmp_path / name) for name in ("a", "b", "c")]
    ids = [command("admin", "keys", "create", "default", "--file", paths[0], "--json").json()["key_id"]]
    ids.append(command("admin", "keys", "rotate", ids[0], "--file", paths[1], "--json").json()["key_id"])
    assert [command("status", "--key-file", path).status for path in paths[:2]] == [0, 0]
    again = command("admin", "keys", "rotate", ids[0], good=False)
    assert again.status == 1
    assert ids[1] in again.err
    command("admin", "keys", "rotate", ids[1], "--grace", "0", "--file", paths[2])
    assert [command("status", "--key-file", path, good=False).status for path in paths] == [0, 1, 0]


def test_repeating_with_the_same_id_makes_one_key(service: Path, command: Command) -> None:
    words = ["admin", "keys", "create", "default", "--idempotency-key", "mine", "--json"]
    assert command(*words).out == command(*words).out


def test_tables_are_for_people(service: Path, command: Command) -> None:
    """Columns under a header, numbers with separators, `none` where nothing is."""
    command("admin", "teams", "create", "vision", "--name", "Vision group", "--rollouts", "20000")
    command("admin", "budget", "set", "vision", "--rollouts", "30000")
    header, first, second = command("admin", "teams", "list").out.splitlines()
    assert header.split() == ["TEAM", "STATUS", "CREATED", "NAME"]
    assert first.startswith("default ")
    assert second.split()[:2] == ["vision", "open"]
    assert second.endswith(" Vision group")
    values, _, uses = command("admin", "budget", "show", "vision").out.partition("\nuses\n")
    budget = dict(line.split() for line in values.splitlines())
    assert (budget["team"], budget["available"], budget["limits.rollouts"]) == ("vision", "30,000", "30,000")
    assert [line.split() for line in uses.splitlines()] == [
        ["LEVEL", "NAME", "USED", "LIMIT", "SHARE"],
        ["team", "rollouts", "0", "30,000", "0"],
    ]
    assert budget["limits.rollouts_per_day"] == "none"
    assert budget["available_tokens"] == "unlimited"
    lines = command("admin", "changes", "--team", "vision").out.splitlines()
    assert lines[0].split() == ["N", "AT", "BY", "KEY", "ACTION", "SUBJECT", "WHAT"]
    assert lines[-1].endswith("rollouts: 20,000 -> 30,000")
    assert " settings " in lines[-1]
    newest = command("admin", "changes", "--after", lines[1].split()[0], "--limit", "1").out.splitlines()
    assert newest[1].split() == lines[2].split()


def test_status_says_which_limit_is_near_and_that_shadow_mode_refuses_nothing(service: Path, command: Command) -> None:
    """A team without rollouts left is told so, whatever the mode."""
    command("admin", "budget", "set", "default", "--rollouts", "0", "--mode", "shadow")
    assert "no limit (shadow mode), 0 used" in command("status").out
    command("admin", "budget", "set", "default", "--mode", "enforce")
    assert command("status").out.endswith("0 rollouts left, 0 used, 0 held; near or past a limit: rollouts 0 of 0\n")


def test_exit_codes_and_one_line_errors(service: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 refused, 2 not understood, 3 away; each in one line that says what to do."""
    cases: list[tuple[int, list[str], str]] = [
        (1, ["admin", "teams", "show", "nobody"], "`rollout-budget admin teams list`"),
        (1, ["admin", "teams", "list", "--key-file", str(service / "team.key")], "check the key in"),
        (1, ["admin", "changes", "--after", "-1"], "greater than or equal to 0"),
        (2, [], "see 'rollout-budget --help'"),
        (2, ["admin", "keys", "creat"], "see 'rollout-budget admin keys --help'"),
        (2, ["admin", "keys", "create", "default", "--expires-in", "soon"], "like 90s, 15m, 12h or 30d"),
        (2, ["admin", "keys", "create", "default", "--expires-in", "90"], "like 90s, 15m, 12h or 30d"),
        (2, ["usage", "--csv", "--json"], "one of --csv and --json"),
        (2, ["usage", "--since", "2026-12-01", "--until", "2026-11-01"], "later than --until"),
        (2, ["budget", "--key-file", "/dev/null"], "the key in /dev/null is empty"),
        (1, ["budget", "--url", f"{os.environ['ROLLOUT_BUDGET_URL']}/elsewhere"], "without a path of its own"),
        (2, ["admin", "keys", "rotate", "x", "--grace", "1000d"], "grace_s"),
        (2, ["admin", "changes", "--limit", "0"], "above 0"),
        (2, ["budget", "--url", "nonsense"], "http:// or https://"),
        (2, ["budget", "--key-file", str(service / "absent")], "No such file"),
        (3, ["budget", "--url", "http://127.0.0.1:1"], "is the allocator running"),
    ]
    for status, words, advice in cases:
        found = command(*words, good=False)
        assert (found.status, found.out, found.err.count("\n")) == (status, "", 1), (words, found.err)
        assert advice in found.err, words
    monkeypatch.delenv("ROLLOUT_BUDGET_KEY")
    found = command("status", good=False)
    assert (found.status, found.err.count("\n")) == (2, 1)
    assert "set ROLLOUT_BUDGET_KEY" in found.err


@pytest.mark.services
def test_the_console_script_runs(service: Path) -> None:
    """As installed, and as a module; a reader that goes away early is no error."""
    script = Path(sys.executable).with_name("rollout-budget")
    for start in ([str(script)], [sys.executable, "-m", "rollout_budget.cli"]):
        done = subprocess.run([*start, "status"], capture_output=True, text=True, cwd=ROOT, check=True)
        assert done.stdout.startswith("ok: team default")
    piped = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{script} admin changes --help | head -c 1"], capture_output=True, check=False
    )
    assert piped.stderr == b""


def test_status_ends_with_1_where_less_is_left_than_required(service: Path, command: Command) -> None:
    """Also as JSON; a team without a limit has all it may want."""
    assert command("status", "--require", "1000000").out.startswith("ok: ")
    command("admin", "budget", "set", "default", "--rollouts", "9")
    assert command("status", "--require", "9").out.startswith("ok: ")
    for more in ((), ("--json",)):
        assert command("status", "--require", "10", *more, good=False).status == 1


def test_a_team_is_closed_and_reopened(service: Path, command: Command) -> None:
    """Its key is refused, its list says so, limits cannot be set meanwhile; reopened, it has them again."""
    command("admin", "budget", "set", "default", "--rollouts", "70")
    assert (
        dict(line.split(maxsplit=1) for line in command("admin", "teams", "close", "default").out.splitlines())[
            "limits.rollouts"
        ]
        == "0"
    )
    assert command("status", good=False).status == 1
    assert command("admin", "teams", "list").out.splitlines()[1].split()[:2] == ["default", "closed"]
    refused = command("admin", "budget", "set", "default", "--rollouts", "9", good=False)
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "team 'default' is closed; reopen it first" in refused.err
    assert command("admin", "teams", "reopen", "default", "--json").json()["limits"]["rollouts"] == 70
    log = command("admin", "changes", "--team", "default", "--subject", "team:default").out
    assert "limits.rollouts: 70 -> 0" in log
    assert "limits.rollouts: 0 -> 70" in log


def test_status_waits_for_a_service_that_is_starting(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first question meets nobody, a later one the allocator; without --wait nobody is an error at once."""
    monkeypatch.setattr(team, "ASK_AGAIN_S", 0.01)
    port, done = free_port(), threading.Event()
    settings = Settings(data=tmp_path, database_url=SecretStr(fresh_sqlite(tmp_path)))
    app = create_app(settings)
    words = ("status", "--url", f"http://127.0.0.1:{port}", "--key-file", str(tmp_path / "team.key"))
    (tmp_path / "team.key").write_text("rb_" + "k" * 43)

    def start_late(listening: socket.socket) -> None:
        listening.accept()[0].close()
        listening.close()
        with served(app, port=port):
            done.wait(60)

    late = threading.Thread(target=start_late, args=(socket.create_server(("127.0.0.1", port)),))
    late.start()
    try:
        found = command(*words, "--wait", "60s")
    finally:
        done.set()
        late.join()
    assert found.out.startswith("ok: team default")
    assert command(*words, good=False).status == 3
