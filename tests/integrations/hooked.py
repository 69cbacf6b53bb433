"""Starts a training in the environment of hooks, and stands beside it: it waits for a line after each step."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

ENVIRONMENT = ROOT / ".venv-hooks"
LIMIT_S = 150
"""Longest run of one training, on a machine that does other things too."""


def python() -> Path:
    """Return the environment's interpreter, or skip the test where there is none."""
    if not (ENVIRONMENT / ".installed").exists():
        pytest.skip("SkyRL and tinker-cookbook are not installed: scripts/setup --hooks")
    return ENVIRONMENT / "bin" / "python"


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a training: one thread, no look-ups outside, no allocator but the one that is named."""
    quiet = {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROLLOUT_BUDGET_")}
    return {**kept, **quiet, **more}


def train(
    module: str, folder: Path, runs: list[dict[str, Any]], on_step: Callable[[str, int], None] | None = None
) -> dict[str, dict[str, Any]]:
    """Run a module once for several trainings; return their reports by run.

    Args:
        module: below `tests.integrations`; prints `step RUN NUMBER` after each step that is logged.
        folder: to write to.
        runs: settings of each training, `run` among them.
        on_step: called with the run and the number of each step.
    """
    given, report = folder / "settings.json", folder / "report.json"
    named = [{**settings, "out": str(folder / settings["run"])} for settings in runs]
    given.write_text(json.dumps({"runs": named, "report": str(report)}))
    command = ["timeout", str(LIMIT_S), str(python()), "-u", "-m", f"tests.integrations.{module}", str(given)]
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("step "):
                _, run, step = line.split()
                if on_step is not None:
                    on_step(run, int(step))
                process.stdin.write("\n")
                process.stdin.flush()
    assert process.returncode == 0, "".join(lines[-40:])
    done: dict[str, dict[str, Any]] = json.loads(report.read_text())
    return done
