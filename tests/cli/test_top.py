"""`rollout-budget top`: figures are the ledger's, frames fit the terminal, and the terminal is given back."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rollout_budget.cli.events import Away, Ended
from rollout_budget.cli.live import sampling
from rollout_budget.cli.live.sampling import Motion, RunNow, Sampler, Snapshot, TeamNow
from rollout_budget.cli.live.screen import SORTS, View, lines
from rollout_budget.cli.live.top import look
from rollout_budget.client import SyncAllocatorClient
from rollout_budget.wire import CloseGroup, CloseRequest, LimitUse, OpenGroup, OpenRequest, RunSpec
from services.allocator.app import create_app
from services.allocator.settings import Settings
from tests.cli.conftest import Command, event
from tests.cli.pseudo import on_a_terminal
from tests.paths import ROOT
from tests.served import served


def draw(url: str, key: Path, run_id: str, groups: int, used: int) -> None:
    """Open and close groups of a run, each with so many rollouts."""
    names = [f"{run_id}-{number}" for number in range(groups)]
    with SyncAllocatorClient(url, key.read_text().strip()) as client:
        client.create_run(RunSpec(run_id=run_id, policy="small", k_init=4))
        client.open(run_id, OpenRequest(groups=[OpenGroup(group_id=name, prompt_key=name) for name in names]))
        client.close(run_id, CloseRequest(groups=[CloseGroup(group_id=name, used=used) for name in names]))


@pytest.fixture
def moving(service: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> str:
    """A service with two runs that drew something; its URL."""
    url = command("status").out.split(" at ")[1].split(": ")[0]
    draw(url, service / "team.key", "alpha", 3, 4)
    draw(url, service / "team.key", "beta", 1, 2)
    monkeypatch.setenv("ROLLOUT_BUDGET_URL", url)
    return url


def snapshot_of(command: Command, *words: str) -> Snapshot:
    return Snapshot.model_validate_json(command("top", "--once", "--json", *words).out)


def test_figures_are_the_ledgers_own(moving: str, service: Path, command: Command) -> None:
    """With an admin's key all teams, with a team's that team; both as usage and budget say."""
    command("admin", "teams", "create", "idle", "--rollouts", "0")
    command("admin", "budget", "set", "default", "--rollouts", "16")
    usage = {row["run"]: row for row in command("usage", "--json").json()["rows"]}
    for words, scope in (((), "admin"), (("--key-file", str(service / "team.key")), "team")):
        found = snapshot_of(command, *words)
        assert found.scope == scope
        runs = {one.run: (one.used, one.saved, one.groups, one.policy) for one in found.runs}
        assert runs == {
            name: (row["used"], row["counts"]["saved"], row["counts"]["groups_closed"], "small")
            for name, row in usage.items()
        }
        assert (found.totals.used, found.totals.mean_group) == (14, 3.5)
        team = next(one for one in found.teams if one.team == "default")
        assert team.available == command("budget", "--json").json()["available"] == 2
        assert team.nearest is not None
        assert (team.nearest.name, team.nearest.share) == ("rollouts", 14 / 16)
    assert [one.team for one in snapshot_of(command).teams] == ["default", "idle"]


def test_teams_beyond_the_screen_are_in_the_totals(
    moving: str, service: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the busiest are asked for their limits; what the others drew counts all the same."""
    command("admin", "teams", "create", "quiet")
    key = service / "quiet.key"
    command("admin", "keys", "create", "quiet", "--file", str(key))
    draw(moving, key, "delta", 1, 3)
    monkeypatch.setattr(sampling, "MAX_TEAMS", 1)
    found = snapshot_of(command)
    assert ([one.team for one in found.teams], found.teams_left_out) == (["default"], 1)
    assert (found.totals.used, found.totals.groups) == (14 + 3, 4 + 1)
    assert "delta" in {one.run for one in found.runs}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look on a busy machine may take longer than a person would wait for it."""
    monkeypatch.setattr(sampling, "TIMEOUT_S", 30.0)


def test_speeds_are_of_the_time_between_two_looks(moving: str, service: Path) -> None:
    """Null at first; then what was drawn since, by the clock."""
    now = [0.0]
    with Sampler(moving, (service / "team.key").read_text(), clock=lambda: now[0]) as sampler:
        first = sampler.look()
        assert (first.totals.rollouts_per_s, first.runs[0].groups_per_s) == (None, None)
        draw(moving, service / "team.key", "gamma", 2, 3)
        now[0] = 4.0
        second = sampler.look()
    assert (second.totals.rollouts_per_s, second.totals.groups_per_s) == (1.5, 0.5)
    assert {one.run: one.rollouts_per_s for one in second.runs} == {"alpha": 0.0, "beta": 0.0, "gamma": 1.5}


def test_a_service_that_goes_away_is_said_and_asked_again(tmp_path: Path) -> None:
    """A look without an answer is an event of its own."""
    with served(create_app(Settings(data=tmp_path))) as url:
        sampler = Sampler(url, (tmp_path / "team.key").read_text())
        assert isinstance(look(sampler), Snapshot)
    with sampler:
        away = look(sampler)
    assert isinstance(away, Away)
    assert "asking again" in away.detail


def snapshot(teams: int, runs: int) -> Snapshot:
    """A snapshot with names of all lengths."""
    motion: dict[str, Any] = {
        "used": 1_234_567, "held": 10, "granted": 1_300_000, "refused": 7, "saved": -50, "groups": 400_000,
        "mean_group": 3.1, "extra_share": 0.25, "rollouts_per_s": 12.5, "groups_per_s": None,
    }  # fmt: skip
    near = LimitUse(level="team", name="rollouts_per_day", used=9_000_000, limit=10_000_000, share=0.9)
    return Snapshot(
        at=datetime.now(UTC),
        url="http://127.0.0.1:8100",
        scope="admin",
        totals=Motion(**motion),
        teams=[TeamNow(team=f"team-{n}", available=None, nearest=near, **motion) for n in range(teams)],
        runs=[RunNow(team="team-0", run=f"run-{n}-" + "x" * n, policy="p" * 40, **motion) for n in range(runs)],
    )


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 10), (200, 60), (20, 3), (1, 1)])
@pytest.mark.parametrize("found", [None, snapshot(0, 0), snapshot(1, 2), snapshot(20, 50), snapshot(3, 50)])
def test_frames_fit_any_terminal(found: Snapshot | None, columns: int, rows: int) -> None:
    """However many teams and runs there are, and how long their names."""
    frame = lines(found, View(footer="q quit", notice="no answer"), columns, rows)
    assert 0 < len(frame) <= rows
    assert max(len(text) for _, text in frame) <= columns


@pytest.mark.parametrize(("teams", "least"), [(20, (6, 6)), (3, (3, 9))])
def test_a_frame_of_80_by_24_is_full_and_fair(teams: int, least: tuple[int, int]) -> None:
    """Neither teams nor runs take all the room, and what is left out is counted."""
    shown = [text for _, text in lines(snapshot(teams, 50), View(footer="q quit"), 80, 24)]
    assert len(shown) == 24
    rows = tuple(sum(text.startswith(name) for text in shown) for name in ("team-", "run-"))
    assert rows >= least
    assert f"and {50 - rows[1]} more" in shown
    assert (f"and {teams - rows[0]} more" in shown) == (teams > rows[0])


def test_each_order_puts_its_own_first() -> None:
    """By name alphabetically, by anything else the greatest first."""
    found = snapshot(1, 1)
    bigger = {"used": 9_999_999, "held": 99, "refused": 99, "saved": 99, "rollouts_per_s": 99.0}
    runs = [found.runs[0].model_copy(update={"run": "a"}), found.runs[0].model_copy(update={"run": "z", **bigger})]
    for sort in SORTS:
        frame = lines(found.model_copy(update={"runs": runs}), View(sort=sort), 120, 40)
        order = [text[0] for _, text in frame if text[:2] in {"a ", "z "}]
        assert order == (["a", "z"] if sort == "name" else ["z", "a"]), sort


@pytest.mark.services
def test_on_a_terminal_keys_work_and_the_terminal_is_given_back(moving: str) -> None:
    """80 by 24: every row is within it; s, + and a new size take effect at once, q ends with 0."""
    with on_a_terminal(["top", "--interval", "30s"]) as screen:
        frame = screen.shows("alpha")
        assert len(frame) <= 24
        assert max(map(len, frame)) <= 80
        assert frame[0].startswith(f"rollout-budget top  {moving}  all teams")
        assert frame[-1].startswith("every 30 s, by rate   q quit")
        assert not any("POLICY" in line for line in frame)
        screen.type("s")
        assert screen.shows("by used")[-1].startswith("every 30 s, by used")
        screen.type("+")
        screen.shows("every 15 s")
        screen.resize(130, 30)
        screen.shows("POLICY")
        screen.type("q")
        assert screen.end() == 0
        assert screen.has_styles
        assert screen.raw.startswith("\x1b[?1049h\x1b[?25l")
        assert screen.raw.endswith("\x1b[?25h\x1b[?1049l")


@pytest.mark.services
def test_colours_are_left_out_where_they_are_not_wanted_and_ctrl_c_is_no_error(moving: str) -> None:
    with on_a_terminal(["top"], env={"NO_COLOR": "1"}) as screen:
        before = screen.modes()
        screen.shows("alpha")
        assert screen.modes() != before
        screen.type("\x03")
        assert screen.end() == 0
        assert not screen.has_styles
        assert "Traceback" not in screen.raw


@pytest.mark.services
def test_as_json_each_look_is_a_line_and_sigterm_ends_it(moving: str) -> None:
    """Without a terminal nothing is drawn: no escape sequence is in the output."""
    command = [sys.executable, "-m", "rollout_budget.cli", "top", "--json", "--interval", "0.05s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        read = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read().splitlines()
    assert process.returncode == 0
    found = [event(line) for line in [*read, *rest]]
    assert isinstance(found[-1], Ended)
    assert all(isinstance(one, Snapshot) and one.totals.used == 14 for one in found[:-1])
    assert [one.at for one in found[:-1] if isinstance(one, Snapshot)][-1] <= datetime.now(UTC)
    assert "\x1b" not in "".join(read)


def test_a_wrong_key_or_address_is_one_line(service: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "wrong.key").write_text("rb_" + "x" * 40)
    refused = command("top", "--key-file", str(tmp_path / "wrong.key"), good=False)
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert command("top", "--once", "--url", "http://127.0.0.1:1", good=False).status == 3
    assert command("top", "--interval", "0", good=False).status == 2
