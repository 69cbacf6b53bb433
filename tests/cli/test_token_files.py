"""A token is told once: where it cannot be kept, no key is made, or it is in the output, or can be had again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rollout_budget.cli import keys
from tests.cli.conftest import Command
from tests.paths import ROOT

CREATE = ("admin", "keys", "create", "default", "--label", "trainer")


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def made(command: Command) -> int:
    return command("admin", "keys", "list", "--team", "default").out.count("trainer")


def test_no_key_is_made_where_its_file_has_no_room(
    service: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full before anything was asked for: one line, and no file."""
    name, real = str(tmp_path / "new.key"), os.open

    def on_a_full_disk(path: Any, flags: int, *mode: int) -> int:
        handle = real(path, flags, *mode)
        if path == name:
            os.dup2(full(), handle)
        return handle

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", on_a_full_disk)
        refused = command(*CREATE, "--file", name, good=False)
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == (
        f"rollout-budget: --file {name} cannot be written: No space left on device; nothing was asked for\n"
    )
    assert not Path(name).exists()
    assert made(command) == 0


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_token_whose_file_fails_after_all_is_in_the_output(
    service: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    """The disk fills while the key is made: the token is printed, the line says so, and the key works."""
    name, real = str(tmp_path / "new.key"), keys._kept

    def filled_meanwhile(secret: Any, file: Any) -> str:
        os.dup2(full(), file._handle)
        return real(secret, file)

    with monkeypatch.context() as patched:
        patched.setattr(keys, "_kept", filled_meanwhile)
        found = command(*CREATE, "--file", name, *form, good=False)
    assert found.status == 1
    assert re.fullmatch(
        rf"rollout-budget: key \w+ was made, but --file {name} could not be written \(.*\) and is not there: "
        r"keep the token from the output above\n",
        found.err,
    )
    assert not Path(name).exists()
    [token] = re.findall(r"rb_[\w-]+", found.out)
    kept = tmp_path / "kept.key"
    kept.write_text(token)
    assert command("status", "--key-file", str(kept)).out.startswith("ok: ")


def ran(*words: str, out: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell does, with its output in this file."""
    with Path(out).open("w") as file:
        command = [sys.executable, "-m", "rollout_budget.cli", *words]
        return subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)


@pytest.mark.services
def test_a_token_that_cannot_be_shown_can_be_had_again(service: Path, command: Command, tmp_path: Path) -> None:
    """`> FILE` on a full disk: the line names the id under which the same command answers the same token."""
    lost = ran(*CREATE, out="/dev/full")
    assert lost.returncode == 1
    said = re.fullmatch(
        r"rollout-budget: key (\w+) was made, but its token could not be shown: "
        r"run the same command again with --idempotency-key (\S+)\n",
        lost.stderr,
    )
    assert said is not None
    again = command(*CREATE, "--idempotency-key", said[2], "--json").json()
    assert again["key_id"] == said[1]
    assert made(command) == 1
    kept = ran(*CREATE, "--file", str(tmp_path / "kept.key"), out="/dev/full")
    assert (kept.returncode, kept.stderr) == (
        1,
        "rollout-budget: the answer could not be written: No space left on device\n",
    )
    assert command("status", "--key-file", str(tmp_path / "kept.key")).out.startswith("ok: ")
