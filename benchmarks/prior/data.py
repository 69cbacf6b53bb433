"""Real outcomes of several policies at several versions, split into evidence and held-back targets.

A folder holds `context.jsonl` (rows of model, step, prompt and score in [-1, 1], the mean of ten outcomes in {-1, +1})
and `prompts.json` (texts by `{dataset}_{id}`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln

from rollout_budget.outcomes import FloatArray, OutcomeRange

TRIALS = 10
SCORES = OutcomeRange(-1.0, 1.0)

Key = tuple[str, int]
"""Policy and version."""


@dataclass(frozen=True, slots=True)
class Row:
    """Success rate of one prompt under one policy and version, over ten trials."""

    policy: str
    version: int
    prompt: str
    rate: float

    @property
    def key(self) -> Key:
        """Policy and version."""
        return self.policy, self.version


@dataclass(frozen=True, slots=True)
class Outcomes:
    """All rows by key, and the prompts' texts."""

    rows: dict[Key, list[Row]]
    texts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Split:
    """One random halving of every key: `evidence` may be fed, `targets` are held back under that key."""

    evidence: dict[Key, list[Row]]
    targets: dict[Key, list[Row]]


def load(folder: Path) -> Outcomes:
    """Read a folder; rows keep the order of the file."""
    texts: dict[str, str] = json.loads((folder / "prompts.json").read_text())
    rows: dict[Key, list[Row]] = defaultdict(list)
    for line in (folder / "context.jsonl").read_text().splitlines():
        raw = json.loads(line)
        rate = float(SCORES.to_unit(raw["score"]))
        row = Row(raw["model"], raw["step"], f"{raw['dataset']}_{raw['id']}", round(rate * TRIALS) / TRIALS)
        rows[row.key].append(row)
    return Outcomes(dict(sorted(rows.items())), texts)


def split(outcomes: Outcomes, seed: int, size: int) -> Split:
    """Take `size` random rows of each key as evidence and as many others as targets."""
    rng = np.random.default_rng(seed)
    evidence, targets = {}, {}
    for key, rows in outcomes.rows.items():
        order = rng.permutation(len(rows))
        evidence[key] = [rows[place] for place in order[:size]]
        targets[key] = [rows[place] for place in order[size : 2 * size]]
    return Split(evidence, targets)


def denoised(rates: FloatArray, among: FloatArray) -> FloatArray:
    """Return the posterior means of success rates under a Beta law fitted to all rates of a key (`among`)."""

    def likelihood(logs: FloatArray) -> float:
        a, b = np.exp(logs)
        successes = among * TRIALS
        return -float((betaln(successes + a, TRIALS - successes + b) - betaln(a, b)).sum())

    a, b = np.exp(minimize(likelihood, np.zeros(2), method="Nelder-Mead").x)
    posterior: FloatArray = (rates * TRIALS + a) / (TRIALS + a + b)
    return posterior
