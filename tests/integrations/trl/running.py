"""Starts a training of TRL in its own environment and reads what it wrote."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.conftest import Service
from tests.paths import ROOT

ENVIRONMENT = ROOT / ".venv-trl"
LIMIT_S = 150
"""Longest run of one training, on a machine that does other things too."""


def python() -> Path:
    """Return TRL's interpreter, or skip the test where there is none."""
    if not (ENVIRONMENT / ".installed").exists():
        pytest.skip("TRL is not installed: scripts/setup --trl")
    return ENVIRONMENT / "bin" / "python"


def environment() -> dict[str, str]:
    """Return the variables of a training: one thread, since servers share the cores, and no look-ups outside."""
    quiet = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, "OMP_NUM_THREADS": "1", **quiet}


def train(
    module: str, folder: Path, settings: dict[str, Any], on_step: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Run a module with these settings and return its report; `on_step` is called with the steps logged so far."""
    given = folder / "settings.json"
    report = folder / "report.json"
    given.write_text(json.dumps({**settings, "out": str(folder / "out"), "report": str(report)}))
    command = ["timeout", str(LIMIT_S), str(python()), "-u", "-m", f"tests.integrations.trl.{module}", str(given)]
    lines: list[str] = []
    steps = 0
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("{'loss'"):
                steps += 1
                if on_step is not None:
                    on_step(steps)
    assert process.returncode == 0, "".join(lines[-40:])
    done: dict[str, Any] = json.loads(report.read_text())
    return done


def seen_by(service: Service, run: str) -> dict[str, dict[str, Any]]:
    """Return the groups of a run as the allocator has them in its database, by id."""
    with sqlite3.connect(f"file:{service.data / 'allocator.db'}?mode=ro", uri=True) as database:
        rows = database.execute("select group_id, record from groups where run = ?", (run,)).fetchall()
    return {name: json.loads(record) for name, record in rows}
