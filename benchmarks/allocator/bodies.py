"""The bodies that are sent: groups of four first rollouts with priors of their own, outcomes drawn by seed."""

from __future__ import annotations

import json
import secrets
from typing import Any

import numpy as np

from benchmarks.allocator.load import Call

STEP = 8
"""Groups of one training step that are sent one at a time: the first of them opens the step's account row."""
FIRST = 4
"""Rollouts of a group's first wave, and outcomes in its first report."""


def declare(run_id: str) -> Call:
    """Return the call that declares a run: limits in all and per step, so that every account row is charged."""
    spec = {
        "run_id": run_id,
        "policy": "policy",
        "outcome_range": {"low": 0, "high": 1},
        "k_init": FIRST,
        "k_max": 16,
        "limits": {"rollouts": 10**9, "rollouts_per_step": 10**8},
    }
    return Call("run", "/v1/runs", json.dumps(spec).encode())


class Groups:
    """Calls about groups of one run that were never named before, in any process."""

    def __init__(self, run_id: str, seed: int) -> None:
        self._path = f"/v1/runs/{run_id}/groups"
        self._mark = secrets.token_hex(3)
        self._rng = np.random.default_rng(seed)
        self._count = 0

    def batch(self, size: int, step: int = 1) -> tuple[Call, Call, Call]:
        """Return the calls that open, observe and close `size` new groups."""
        names = [f"step-{step}-{self._mark}-{self._count + index}" for index in range(size)]
        self._count += size
        rates = self._rng.random(size).round(3).tolist()
        outcomes = [(self._rng.random(FIRST) < rate).astype(float).tolist() for rate in rates]
        opened = [
            {
                "group_id": name,
                "prompt_key": f"prompt-{name}",
                "prior": {"value": rate, "standard_error": 0.2},
                "policy_version": step,
                "step": step,
            }
            for name, rate in zip(names, rates, strict=True)
        ]
        observed = [{"group_id": name, "outcomes": drawn} for name, drawn in zip(names, outcomes, strict=True)]
        closed = [{"group_id": name, "used": FIRST} for name in names]
        return self._call("open", opened), self._call("observe", observed), self._call("close", closed)

    def _call(self, name: str, groups: list[dict[str, Any]]) -> Call:
        return Call(name, f"{self._path}/{name}", json.dumps({"groups": groups}).encode())
