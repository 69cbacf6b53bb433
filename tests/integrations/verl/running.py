"""Starts programs in the environment of hooks and reads what they and the allocator wrote."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.conftest import Service
from tests.paths import ROOT

ENVIRONMENT = ROOT / ".venv-hooks"
LIMIT_S = 200
"""Longest run of one program, on a machine that does other things too."""
HERE = "tests.integrations.verl"


def python() -> str:
    """Return the interpreter, or skip the test where verl is missing."""
    if not (ENVIRONMENT / ".installed").exists():
        pytest.skip("verl is not installed: scripts/setup --hooks")
    return str(ENVIRONMENT / "bin" / "python")


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a program: no look-ups outside, no reports of Ray's on its use, one thread."""
    quiet = {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROLLOUT_BUDGET_", "VERL_"))}
    return {**kept, **quiet, **more}


def at(service: Service) -> dict[str, str]:
    """Return the variables that tell where the allocator is."""
    return {"ROLLOUT_BUDGET_URL": service.url, "ROLLOUT_BUDGET_KEY": service.key}


def booked(service: Service, run: str) -> list[dict[str, Any]]:
    """Return the groups of a run, each attempt apart, as the allocator has them in its database."""
    with sqlite3.connect(f"file:{service.data / 'allocator.db'}?mode=ro", uri=True) as database:
        rows = database.execute("select record from groups where run = ?", (run,)).fetchall()
    return [json.loads(record) for (record,) in rows]


def page_lines() -> list[str]:
    """Return the settings of verl that docs/integrations/verl.md prints, one argument each."""
    page = (ROOT / "docs" / "integrations" / "verl.md").read_text(encoding="utf-8")
    block = page.split("```bash\npython -m verl.trainer.main_ppo", 1)[1].split("```", 1)[0]
    return [line.strip(" \\").replace("'", "") for line in block.splitlines()[1:] if line.strip(" \\")]


def banners(printed: str) -> list[str]:
    """Return what our plug-in said, in whatever process."""
    return [line for line in printed.splitlines() if "rollout-budget for verl" in line]


def written(file: Path) -> list[dict[str, Any]]:
    """Return what verl's file logger wrote, one entry per step."""
    return [json.loads(line)["data"] for line in file.read_text(encoding="utf-8").splitlines()]
