"""`rollout-budget up` with real services: it wires them, shows them, and nothing of it stays, however it ends."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from rollout_budget.cli.embedded.folder import word_of
from rollout_budget.cli.events import Ended, Ready
from rollout_budget.cli.live.sampling import Snapshot
from tests.cli.conftest import Command, event
from tests.cli.pseudo import on_a_terminal
from tests.paths import ROOT

pytestmark = pytest.mark.services
E = TypeVar("E", Snapshot, Ended)
GONE_S = 20.0
"""Longest wait for children to end: their grace, on busy cores."""


class Up:
    """A running `up --json`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        first = event(process.stdout.readline())
        assert isinstance(first, Ready)
        self.ready = first
        self.children = self.below()

    def below(self) -> list[psutil.Process]:
        """Every process below it, keepers first."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def next(self, kind: type[E]) -> E:
        """Read lines until one is of this kind; return it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if isinstance(found := event(line), kind):
                return found
        raise AssertionError(f"it ended with {self.process.wait()} before any {kind.__name__}")

    def gone(self) -> bool:
        """Wait until no child is left; whether that is so."""
        return not psutil.wait_procs(self.children, timeout=GONE_S)[1]


@contextmanager
def up(data: Path, *words: str) -> Iterator[Up]:
    """Start it on ports that are free."""
    command = [sys.executable, "-m", "rollout_budget.cli", "up", "--json", "--data", str(data), "--port", "0"]
    with subprocess.Popen(
        [*command, "--prior-port", "0", "--interval", "0.2s", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            yield Up(process)
        finally:
            process.kill()


def is_free(url: str | None) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", urlsplit(url or "").port or 0)) != 0


@pytest.mark.timeout(120)
def test_both_services_are_wired_and_end_with_it(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are there and work, a second start says where the first is, and after SIGTERM nothing of it is left."""
    for name in ("ROLLOUT_BUDGET_URL", "ROLLOUT_BUDGET_KEY", "ROLLOUT_BUDGET_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    data = tmp_path / "data"
    with up(data, "--demo") as running:
        ready = running.ready
        for file in (ready.admin_key_file, ready.team_key_file, ready.prior_key_file):
            assert stat.S_IMODE(Path(file or "").stat().st_mode) == 0o600
        assert httpx.get(ready.dashboard_url, follow_redirects=True).status_code == 200
        report = command("doctor", "--data", str(data), "--json").json()
        said = {one["name"]: one["said"] for one in report["checks"]}
        assert report["healthy"]
        assert "minilm" in said["prior key"]
        assert "takes writes" in said["database"]
        second = command("up", "--data", str(data), good=False)
        assert (second.status, second.err.count("\n")) == (2, 1)
        assert f"(process {running.process.pid}) serves from" in second.err
        assert f"--url {ready.allocator_url} --key-file {ready.admin_key_file}" in second.err
        seen = running.next(Snapshot)
        while not seen.totals.used:
            seen = running.next(Snapshot)  # the demo's load, as the allocator counts it
        running.children = running.below()
        assert len(running.children) == 6  # prior service, allocator and demo, each below its keeper
        running.process.send_signal(signal.SIGTERM)
        running.next(Ended)
        assert running.process.wait(GONE_S) == 0
        assert running.gone()
        assert is_free(ready.allocator_url)
        assert is_free(ready.prior_url)
    assert "prior service could not be used" not in Path(ready.allocator_log).read_text()


def kill_parent(running: Up) -> None:
    running.process.kill()


def kill_service(running: Up) -> None:
    running.children[-1].kill()


@pytest.mark.parametrize(("end", "status"), [(kill_parent, -signal.SIGKILL), (kill_service, 1)])
def test_no_child_outlives_it(tmp_path: Path, end: Callable[[Up], None], status: int) -> None:
    """Not even one that was killed without a chance to end anything; a service that dies takes all with it, and is named."""
    with up(tmp_path, "--no-prior") as running:
        assert running.ready.prior_url is None
        end(running)
        assert running.process.wait(GONE_S) == status
        assert running.gone()
        assert running.process.stderr is not None
        said = running.process.stderr.read()
    assert said.count("\n") == int(status == 1)
    assert ("the allocator ended with status" in said) == (status == 1)
    assert word_of(tmp_path) is None  # nobody holds the folder any more


def test_on_a_terminal_it_is_a_live_view(tmp_path: Path) -> None:
    """Addresses and key files stand above the budgets; Ctrl-C on the terminal ends all, and then only lines are left."""
    with on_a_terminal(["up", "--no-prior", "--port", "0", "--data", str(tmp_path / "d")], 160, 24) as screen:
        frame = screen.shows("default")
        assert frame[0].startswith("rollout-budget up  http://127.0.0.1:")
        assert any("admin.key" in line for line in frame)
        assert frame[-1].endswith("Ctrl-C ends everything   s sort   + - speed")
        children = psutil.Process(screen.process.pid).children(recursive=True)
        screen.type("\x03")
        assert screen.end() == 0
        assert screen.raw.rstrip().endswith("up: stopped; the data stays")
        assert not psutil.wait_procs(children, timeout=GONE_S)[1]


def test_a_service_that_cannot_start_is_named_with_its_reason(tmp_path: Path, command: Command) -> None:
    """Its last line is in the error, and the rest is in its log."""
    (tmp_path / "allocator").mkdir()
    (tmp_path / "allocator" / "admin.key").write_text("short")
    refused = command("up", "--no-prior", "--port", "0", "--plain", "--data", str(tmp_path), good=False)
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "the allocator ended with status 2: services.allocator: " in refused.err
    assert "allocator.log" in refused.err


def test_what_is_missing_or_taken_is_said_before_anything_starts(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages by name with what to install; a port that was asked for and is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = command("up", "--no-prior", "--port", port, "--data", str(tmp_path / "data"), good=False)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert f"--port {port}: something listens there" in refused.err
    requires = metadata.requires
    more = 'no-such-package>=2; extra == "prior"'
    monkeypatch.setattr(metadata, "requires", lambda name: [*(requires(name) or []), more])
    refused = command("up", "--data", str(tmp_path / "data"), good=False)
    assert refused.status == 2
    assert "the services need no-such-package: run pip install 'rollout-budget[allocator,prior]', or add" in refused.err
    monkeypatch.setattr(metadata, "requires", lambda _name: [more.replace("prior", "allocator")])
    assert "--no-prior" not in command("up", "--data", str(tmp_path / "data"), good=False).err
