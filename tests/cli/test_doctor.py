"""`rollout-budget doctor` on what is healthy and on what is broken: each fault is found, named, and comes with what to do."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from rollout_budget.cli.doctor import servers, software, storage
from rollout_budget.cli.doctor.report import Check, Report
from tests.cli.conftest import Command
from tests.ports import free_port
from trainer.servers import ServerProcess

NOWHERE = "http://127.0.0.1:1"


class Ask(NamedTuple):
    """The doctor, asked about a service from a folder without data."""

    command: Command
    folder: Path

    def __call__(self, *words: str) -> Report:
        """Ask; the exit code is 1 exactly where something failed."""
        found = self.command("doctor", "--data", str(self.folder), *words, "--json", good=False)
        report = Report.model_validate_json(found.out)
        assert found.status == int(not report.healthy)
        assert all(one.do for one in report.checks if one.state != "ok")
        return report


def found(report: Report, name: str) -> list[Check]:
    return [one for one in report.checks if one.name == name]


def only(report: Report, name: str, state: str) -> Check:
    """The one check of this name in this state."""
    [check] = [one for one in found(report, name) if one.state == state]
    return check


@pytest.fixture
def doctor(service: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    for name in ("ROLLOUT_BUDGET_PRIOR_URL", "ROLLOUT_BUDGET_PRIOR_KEY", "ROLLOUT_BUDGET_ALLOCATOR_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return Ask(command, tmp_path / "nothing")


@contextmanager
def answering(body: bytes | dict[str, object], clock_ahead_s: float = 0.0) -> Iterator[str]:
    """A small server that answers everything alike, or each path with its JSON, by a clock of its own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = body if isinstance(body, bytes) else json.dumps(body.get(self.path.partition("?")[0], {})).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(found)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) + clock_ahead_s)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_healthy(doctor: Ask, service: Path) -> None:
    """Service, both keys, the database's file and the disk; each in a line that says what was found."""
    data = service / "of-up"
    data.mkdir()
    shutil.copytree(service, data / "allocator", ignore=lambda *_: ["of-up"])
    (data / "allocator" / next(service.glob("*.db")).name).rename(data / "allocator" / "allocator.db")
    files = ["--key-file", str(service / "team.key"), "--admin-key-file", str(service / "admin.key")]
    report = doctor(*files, "--data", str(data))
    assert {one.name: one.state for one in report.checks if one.state == "fail"} == {}
    assert "works: team default, scope team" in only(report, "team key", "ok").said
    assert "1 active keys of 1 teams" in only(report, "admin key", "ok").said
    assert "takes writes" in only(report, "database", "ok").said
    assert only(report, "allocator clock", "ok")
    assert only(report, "python", "ok")
    text = doctor.command("doctor", "--data", str(data)).out
    assert text.splitlines()[-1].endswith("0 fail")


def test_an_allocator_that_is_away_or_another_service(doctor: Ask) -> None:
    """Keys are then not asked about, but their files are looked at."""
    away = only(doctor("--url", NOWHERE), "allocator", "fail")
    assert "rollout-budget up" in away.do
    with answering(b"hello") as url:
        assert "is no service of ours" in only(doctor("--url", url), "allocator", "fail").said
    with answering(b'{"status": "unavailable", "detail": "the database is away"}') as url:
        assert "not ready: the database is away" in only(doctor("--url", url), "allocator", "fail").said


def test_a_clock_that_is_off(doctor: Ask) -> None:
    """By more than whole seconds can hide; told which way."""
    for ahead, said in ((90, "90 s ahead of"), (-90, "90 s behind"), (0, "agrees")):
        with answering(b'{"status": "ok"}', clock_ahead_s=ahead) as url:
            [clock] = found(doctor("--url", url), "allocator clock")
            assert clock.state == ("warn" if ahead else "ok")
            assert said.split(" s ")[-1] in clock.said


def test_keys_that_do_not_work_or_may_be_read_by_others(doctor: Ask, service: Path, tmp_path: Path) -> None:
    """Unknown, of the wrong scope, not there, or open to the whole machine; a read key is told from a team's."""
    wrong = tmp_path / "wrong.key"
    wrong.write_text("rb_" + "x" * 40)
    wrong.chmod(0o644)
    report = doctor("--key-file", str(wrong), "--admin-key-file", str(service / "team.key"))
    assert "is not accepted" in only(report, "team key", "fail").said
    assert "mode 644" in only(report, "team key", "warn").said
    assert "is no admin's" in only(report, "admin key", "fail").said
    assert "No such file" in only(doctor("--key-file", str(tmp_path / "absent")), "team key", "fail").said
    reads = tmp_path / "read.key"
    doctor.command("admin", "keys", "create", "default", "--scope", "read", "--file", str(reads), "--expires-in", "2d")
    report = doctor("--key-file", str(reads))
    assert "scope read" in only(report, "team key", "ok").said
    ends = only(report, "keys", "warn")
    assert "of team default ends at" in ends.said
    assert "admin keys rotate" in ends.do


def test_a_budget_near_its_end(doctor: Ask, service: Path) -> None:
    doctor.command("admin", "budget", "set", "default", "--rollouts", "0")
    assert only(doctor("--key-file", str(service / "team.key")), "budget", "warn").said == "rollouts 0 of 0"


def test_a_prior_that_is_away(doctor: Ask, service: Path) -> None:
    report = doctor("--prior-url", NOWHERE, "--prior-key-file", str(service / "team.key"))
    assert "running mean" in only(report, "prior", "fail").do


def test_databases_that_are_away_old_or_secret(doctor: Ask, tmp_path: Path) -> None:
    """The allocator's own word on them; a password on the command line is refused before anything is asked."""
    away = only(doctor("--database", f"postgresql://someone@127.0.0.1:{free_port()}/ledger"), "database", "fail")
    assert "no connection to postgresql://someone@" in away.said
    empty = tmp_path / "empty.db"
    empty.touch()
    old = only(doctor("--database", f"sqlite:///{empty}"), "database", "fail")
    assert "at schema none" in old.said
    assert "services.allocator migrate" in old.do
    refused = doctor.command("doctor", "--database", "postgresql://a:secret@h/l", good=False)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "secret" not in refused.err


def test_addresses_that_are_none_are_said_in_a_line(doctor: Ask) -> None:
    """Whichever option names them; no traceback, and everything else is looked at all the same."""
    report = doctor("--url", "http://[::1", "--prior-url", "http://here:port", "--vllm", "http://[::1")
    for name in ("allocator", "prior", "vllm [::1"):
        assert "no answer" in only(report, name, "fail").said
    refused = doctor.command("doctor", "--database", "postgresql://[::1/ledger", good=False)
    assert (refused.status, refused.err.count("\n")) == (2, 1)


def test_a_full_disk_and_one_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the free bytes of wherever the folder would be made."""
    usage = shutil.disk_usage(tmp_path)
    for free, state in ((10 << 20, "fail"), (500 << 20, "warn"), (2 << 30, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, free=free: usage._replace(free=free))
        assert [one.state for one in storage.disk(tmp_path / "not" / "yet")] == [state]


def test_servers_that_are_no_vllm(doctor: Ask) -> None:
    """Away, or something else at the address: the allocator for one."""
    url = json.loads(doctor.command("top", "--once", "--json").out)["url"]
    report = doctor("--vllm", NOWHERE, "--vllm", url)
    assert "no answer" in only(report, f"vllm {NOWHERE.removeprefix('http://')}", "fail").said
    assert "no vLLM server" in only(report, f"vllm {url.removeprefix('http://')}", "fail").said


def vllm_like(*routes: str, **config: object) -> dict[str, object]:
    """What a vLLM server shows that was started in some other way than the trainer needs."""
    return {
        "/version": {"version": "0.32.0"},
        "/v1/models": {"data": [{"id": "policy"}]},
        "/openapi.json": {"paths": {route: {} for route in routes}},
        "/server_info": {"vllm_config": config},
    }


@pytest.mark.parametrize(
    ("shown", "state", "said"),
    [
        (vllm_like("/v1/completions"), "fail", "takes no new weights"),
        (vllm_like(*servers.IN_PLACE), "fail", "no engine for them"),
        (vllm_like(*servers.IN_PLACE, weight_transfer_config={"backend": "fs"}), "ok", "weights.backend = filesystem"),
        (vllm_like(servers.ADAPTERS), "ok", "as adapters"),
        ({**vllm_like(servers.ADAPTERS), "/version": {"version": "0.9.1"}}, "warn", "vLLM 0.9.1"),
        ({**vllm_like(servers.ADAPTERS), "/v1/models": {"data": [{"id": "other"}]}}, "warn", "serves other"),
    ],
)
def test_servers_that_lack_what_the_trainer_needs(shown: dict[str, object], state: str, said: str) -> None:
    """Started without development mode, without an engine, of another version, under another name."""
    with answering(shown) as url:
        checks = list(servers.checks(url))
    assert [one for one in checks if one.state == state and said in one.said], checks
    assert {one.state for one in checks} <= {"ok", state}


@pytest.mark.vllm
def test_a_real_vllm_server_that_takes_weights(doctor: Ask, vllm: ServerProcess) -> None:
    """Version, model, and the ways of new weights that the server was started with."""
    said = [one.said for one in found(doctor("--vllm", vllm.url), f"vllm {vllm.url.removeprefix('http://')}")]
    assert said[0].startswith("vLLM 0.32.")
    assert "policy" in said[1]
    assert said[2] == "takes new weights by gloo (weights.backend = gloo) and as adapters (lora)"


def test_gpus_by_the_drivers_own_tool(tmp_path: Path) -> None:
    """A card with its driver, a driver that does not answer, none at all: by a tool that prints what nvidia-smi does."""
    tool = tmp_path / "nvidia-smi"

    def ask(script: str) -> Check:
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        return software.gpu_by([str(tool)])

    card = ask("echo 'NVIDIA H200, 580.95.05, 143771 MiB'")
    assert (card.state, card.said) == ("ok", "1: NVIDIA H200 143771 MiB, driver 580.95.05")
    broken = ask("echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9")
    assert broken.state == "fail"
    assert "could not communicate" in broken.said
    assert ask("true").state == "warn"


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13.1", "==2.13.0", False),
        ("5.23", ">=5.20,<6", True),
        ("6.0", ">=5.20,<6", False),
        ("1.26", "numpy>=1.26", True),
        ("1.9", ">=1.26", False),
        ("1.9", "", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, bounds: str, fits: bool) -> None:  # noqa: FBT001 - a table
    assert software.meets(version, bounds) is fits
