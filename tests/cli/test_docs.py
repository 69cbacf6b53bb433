"""docs/cli.md: what stands behind `$` runs as printed and answers what is shown, figures aside; each command is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rollout_budget.cli.completion import nodes
from rollout_budget.cli.main import parser
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
END = "== end of a command =="
COMMAND = f'rollout-budget() {{ "{sys.executable}" -m rollout_budget.cli "$@"; }}\nexport PYTHONPATH="{ROOT}"\n'


def sessions() -> list[tuple[str, list[str]]]:
    """Every command behind `$` with the lines that it shall print, in order."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def shape(line: str) -> str:
    """A line without what differs from one time to the next: figures, bars, and blanks that align them."""
    figures = re.sub(r"(?<![\w:])-(?=\s|$)|-?\d[\d,.:]*[%Z]?|no limit", "0", re.sub("[█░]", "", line))
    return " ".join(figures.split())


@pytest.mark.services
def test_the_page_runs_as_printed(service: Path, tmp_path: Path) -> None:
    """One shell for all of it, against a real allocator."""
    script = COMMAND + "".join(f"{command}\necho '{END}'\n" for command, _ in sessions())
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "here", capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.stderr == ""
    printed = [part.strip("\n").splitlines() for part in done.stdout.split(END + "\n")[:-1]]
    assert len(printed) == len(sessions()) > 10
    for (command, shown), lines in zip(sessions(), printed, strict=True):
        assert list(map(shape, lines)) == list(map(shape, shown)), command
        if "--local" in command:
            assert lines == shown, command


def test_every_command_has_its_place() -> None:
    """At the top of the page's table, by its own name."""
    table = PAGE.partition("**What they share.**")[0]
    for name in next(nodes(parser())).below:
        assert f"`{name}`" in table.replace(", ", "`, `"), name
