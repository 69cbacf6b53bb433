"""Completions in the real shells: what each offers is what the parser has."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from rollout_budget.cli.completion import SHELLS, nodes
from rollout_budget.cli.main import parser
from tests.cli.conftest import Command

BASH = """
source "$1"; shift
compopt() { :; }
COMP_WORDS=("$@"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_rollout_budget
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
compdef() { : }
_describe() { local name="${@[-1]}"; [[ "$name" == option || "$name" == command ]] && name="${@[-2]}"; print -l -- "${(@P)name%%:*}" }
compadd() { shift; print -l -- "$@" }
_message() { : }
_files() { print -l -- *(N) }
source "$1"; shift
words=("$@"); CURRENT=$#
_rollout_budget
"""
"""zsh's own completion functions, which need its line editor, are replaced by ones that print what they are given."""
FISH = 'source $argv[1]; complete -C (string join " " -- $argv[2..])'

ASKED: list[tuple[str, set[str]]] = [
    ("", {"up", "status", "top", "decide", "doctor", "demo", "completion", "admin"}),
    ("admin ", {"teams", "keys", "budget", "usage", "changes"}),
    ("admin keys ", {"create", "list", "rotate", "revoke"}),
    ("runs --status ", {"running", "finished"}),
    ("up --", {"--data", "--no-prior", "--demo", "--plain", "--no-live", "--json", "--help"}),
    ("admin keys create vision --sc", {"--scope"}),
    ("completion ", {"bash", "zsh", "fish"}),
    ("decide gro", {"groups.json"}),
    ("status --key-file ", {"groups.json"}),
    ("status --require ", set()),
]
FREE = {"status --require "}
"""Where anything may be typed, so nothing is offered."""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell, and one file to complete."""
    folder = tmp_path_factory.mktemp("completion")
    found = list(nodes(parser()))
    for shell, make in SHELLS.items():
        (folder / shell).write_text(make("rollout-budget", found))
    (folder / "files").mkdir()
    (folder / "files" / "groups.json").touch()
    return folder


def offered(shell: str, scripts: Path, line: str) -> set[str]:
    """What a shell offers after this line."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here; `make tools` brings it")
    words = ["rollout-budget", *line.split(" ")]
    start: dict[str, Sequence[str]] = {
        "bash": ["bash", "--norc", "-c", BASH, "bash"],
        "zsh": ["zsh", "-f", "-c", ZSH, "zsh"],
        "fish": ["fish", "--no-config", "-c", FISH],
    }
    done = subprocess.run(
        [*start[shell], str(scripts / shell), *words],
        capture_output=True,
        text=True,
        cwd=scripts / "files",
        check=False,
    )
    assert done.stderr == "", done.stderr
    return {entry.partition("\t")[0] for entry in done.stdout.splitlines()} - {""}


@pytest.mark.parametrize("shell", SHELLS)
def test_what_shells_offer(scripts: Path, shell: str) -> None:
    """Commands at every depth, options, choices of an option's value, files where a file is wanted."""
    for line, expected in ASKED:
        found = offered(shell, scripts, line)
        assert expected <= found, line
        assert bool(found) == (line not in FREE), line
        if line == "runs --status ":
            assert found == expected


def test_every_command_and_option_is_in_every_script(scripts: Path) -> None:
    """The tree of the parser is walked to its ends: a new option cannot be forgotten."""
    texts = {shell: (scripts / shell).read_text() for shell in SHELLS}
    found = list(nodes(parser()))
    assert {node.path for node in found} >= {(), ("admin", "teams", "close"), ("completion",)}
    for node in found:
        for option in node.options:
            long = next(name for name in option.names if name.startswith("--"))
            assert long in texts["bash"]
            assert long in texts["zsh"]
            assert f"-l {long[2:]}" in texts["fish"]
        for name in node.below:
            assert all(f"{' '.join((*node.path, name))}" in text for text in texts.values())


def test_the_command_prints_the_script(command: Command, scripts: Path) -> None:
    for shell in SHELLS:
        assert command("completion", shell).out == (scripts / shell).read_text()
        assert command("completion", shell, "--json").json() == {
            "shell": shell,
            "script": (scripts / shell).read_text(),
        }
    assert command("completion", "tcsh", good=False).status == 2
