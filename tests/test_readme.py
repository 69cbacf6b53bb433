"""What the README says can be copied and run, and answers what it shows."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.allocator.app import create_app
from services.allocator.settings import Settings
from tests.paths import ROOT
from tests.served import served
from tests.snippets import blocks
from trainer.servers import free_port


def block(language: str, number: int = 0) -> str:
    """Return the text of a fenced block."""
    return [text for spoken, text in blocks(ROOT / "README.md") if spoken == language][number]


def test_the_python_session_runs() -> None:
    """The loop in this process runs as printed: one advantage a rollout, all of them in the budget."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block("python"), "README.md", "exec"), {})  # noqa: S102 - the very text under test
    found = re.fullmatch(r"(\d+) (\[.+\]) (\d+)\.0\n", printed.getvalue())
    assert found, printed.getvalue()
    assert int(found[1]) == len(json.loads(found[2])) == int(found[3]) > 0


@pytest.mark.services
@pytest.mark.timeout(180)
def test_the_curl_session_runs_and_answers_what_is_shown(tmp_path: Path) -> None:
    """Both services start from the shell lines as printed, and `observe` gives the answer shown below them."""
    prior, allocator = str(free_port()), str(free_port())
    session = block("bash").replace(".cache/quickstart", str(tmp_path)).replace(".venv/bin/python", sys.executable)
    session = session.replace("localhost:8101", f"localhost:{prior}").replace("127.0.0.1:8101", f"127.0.0.1:{prior}")
    session = session.replace("localhost:8100", f"localhost:{allocator}")
    ports = f"export ROLLOUT_BUDGET_PRIOR_PORT={prior} ROLLOUT_BUDGET_ALLOCATOR_PORT={allocator}\n"
    done = subprocess.run(
        ["bash", "-c", ports + session], cwd=ROOT, capture_output=True, text=True, timeout=170, check=False
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == 8, done.stdout + done.stderr
    decision = answers[4]["groups"][0]
    shown = json.loads(block("json"))
    rounded = {"baseline", "weight", "baselines", "advantages"}
    assert {name: decision[name] for name in shown.keys() - rounded} == {
        name: shown[name] for name in shown.keys() - rounded
    }
    for name in rounded:
        assert decision[name] == pytest.approx(shown[name], abs=5e-4)
    assert answers[5]["groups"][0]["committed"] == 2
    assert answers[6]["usage"]["committed"] == 2


@pytest.mark.services
def test_the_session_with_the_command_runs(tmp_path: Path) -> None:
    """A team, its key, what is left, usage and the log of changes, as printed, against a fresh allocator."""
    settings = Settings(data=tmp_path / "allocator")
    command = str(Path(sys.executable).with_name("rollout-budget"))
    session = block("bash", 1).replace(".cache/quickstart", str(tmp_path)).replace(".venv/bin/rollout-budget", command)
    with served(create_app(settings)) as url:
        environment = {"PATH": os.environ["PATH"], "ROLLOUT_BUDGET_URL": url}
        done = subprocess.run(
            ["bash", "-ec", session],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert f"ok: team vision at {url}: 20,000 rollouts left, 0 used, 0 held" in done.stdout
    assert [action for action in ("team.created", "key.created") if action in done.stdout] == [
        "team.created",
        "key.created",
    ]
