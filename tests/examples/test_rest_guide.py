"""`docs/rest.md`: every block runs as it stands, in its order, and the service answers what is shown."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tests.ports import free_port
from tests.snippets import blocks

GUIDE = ROOT / "docs" / "rest.md"


def session(folder: Path, port: int) -> str:
    """Return all blocks as one shell session: Python programs as files beside it."""
    lines = ["set -e"]
    for number, (language, text) in enumerate(blocks(GUIDE)):
        if language == "python":
            (folder / f"{number}.py").write_text(text, encoding="utf-8")
            lines.append(f"{sys.executable} {number}.py\n")
        elif language == "bash":
            lines.append(text.replace(".venv/bin/python", sys.executable).replace(":8100", f":{port}"))
    return "\n".join(lines)


def leaves(shown: dict[str, Any], answer: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    for name, value in shown.items():
        both = (value, answer[name]) if isinstance(value, list) else ([value], [answer[name]])
        yield from zip(*both, strict=True)


@pytest.mark.services
@pytest.mark.timeout(180)
def test_the_guide_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """One shell session, one real allocator that its first block starts; no call fails, and shown answers are true."""
    port = free_port()
    done = subprocess.run(
        ["bash", "-c", session(tmp_path, port)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ROLLOUT_BUDGET_ALLOCATOR_PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert not [answer for answer in answers if "code" in answer]
    assert len(answers) == 1 + 6 + 3 + 3
    groups = [group for answer in answers for group in answer.get("groups", [])]
    shown = [json.loads(text) for language, text in blocks(GUIDE) if language == "json"]
    assert len(shown) == 2
    for one in shown:
        answer = next(
            group
            for group in groups
            if one.items() & group.items() >= {("group_id", one["group_id"])} and one.keys() <= group.keys()
        )
        for expected, found in leaves(one, answer):
            assert found == (pytest.approx(expected, abs=5e-4) if isinstance(expected, float) else expected)
    drawn = re.search(r"^(\d+) rollouts for 3 prompts$", done.stdout, re.MULTILINE)
    assert drawn
    assert int(drawn[1]) >= 3
    assert len(re.findall(r"^\[\('p1', \d+, \[", done.stdout, re.MULTILINE)) == 3
    assert re.search(r"^[1-9]\d* rollouts, [1-9]\d* calls answered here$", done.stdout, re.MULTILINE)
    assert "Notice(kind='away'" in done.stdout
