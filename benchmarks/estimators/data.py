"""Real outcomes as a benchmark needs them: rows by key, a denoised truth, a split into support and targets.

The folder holds `context.jsonl` and `train.jsonl` (rows of `{id, score, model, step, dataset}`, `score` in [-1, 1] the
mean of ten outcomes in {-1, +1}) and `prompts.json` (text by `{dataset}_{id}`). A key is one model at one step. All
figures here are on the unit scale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln

from rollout_budget.groups import IntArray
from rollout_budget.outcomes import FloatArray

TRIALS = 10
"""Rollouts behind each score."""
SUPPORT_ROWS = 256
"""Rows per key that a prior may learn from; the other rows of `context` and those of `train` are targets."""
SOURCE = "https://raw.githubusercontent.com/Now-Join-Us/V0/2bbbc567602ee4ca16f4eaf9f4a1e503f96f39de/data"
"""The public sample data of V0 (Apache-2.0), at one commit. Its test set is left alone."""
FILES: Mapping[str, str] = {
    "context.jsonl": "context.jsonl",
    "train.jsonl": "train.jsonl",
    "prompts.json": "prompt_dict.json",
}
"""Name in a folder of outcomes, by name at the source."""
FETCH_TIMEOUT_S = 30.0


class Unreachable(Exception):
    """The public sample data cannot be fetched from here."""


@dataclass(frozen=True, slots=True)
class Rows:
    """`n` rows of all keys.

    Attributes:
        key: index into `keys`, shape (n,).
        prompt: name of the prompt, n entries.
        successes: of `TRIALS`, shape (n,).
        truth: success rate without the noise of ten rollouts: posterior mean under a Beta law fitted per key, shape (n,).
        context: whether the row may serve as support, shape (n,).
        keys: (model, step) of each key.
    """

    key: IntArray
    prompt: tuple[str, ...]
    successes: FloatArray
    truth: FloatArray
    context: np.ndarray[tuple[int], np.dtype[np.bool_]]
    keys: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Places in `rows`: what priors may learn from, and what they are scored on."""

    rows: Rows
    support: IntArray
    targets: IntArray

    @property
    def truth(self) -> FloatArray:
        """Success rate of each target."""
        return self.rows.truth[self.targets]


def fetch(folder: Path) -> Path:
    """Fill a folder with the public sample data, unless it is there already; return the folder.

    Raises:
        Unreachable: the network or the source says no; nothing is left behind.
    """
    if all((folder / name).is_file() for name in FILES):
        return folder
    try:
        with httpx.Client(timeout=FETCH_TIMEOUT_S, follow_redirects=True) as client:
            found = {name: client.get(f"{SOURCE}/{path}").raise_for_status().text for name, path in FILES.items()}
    except httpx.HTTPError as error:
        raise Unreachable(f"{SOURCE}: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in found.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def load(folder: Path) -> Rows:
    """Read a folder.

    Raises:
        OSError: a file is missing.
        ValueError: a score is not a mean of ten outcomes.
    """
    parts = [(name == "context", row) for name in ("context", "train") for row in _read(folder / f"{name}.jsonl")]
    keys = tuple(sorted({(row["model"], row["step"]) for _, row in parts}))
    successes = np.array([(row["score"] + 1) / 2 * TRIALS for _, row in parts])
    if np.abs(successes - successes.round()).max() > 1e-6 or successes.min() < -1e-6 or successes.max() > TRIALS + 1e-6:
        raise ValueError(f"{folder}: a score is not the mean of {TRIALS} outcomes in {{-1, +1}}")
    successes = successes.round()
    key = np.array([keys.index((row["model"], row["step"])) for _, row in parts])
    truth = np.empty(len(parts))
    for index in range(len(keys)):
        a, b = fit_beta(successes[key == index])
        truth[key == index] = (a + successes[key == index]) / (a + b + TRIALS)
    return Rows(
        key=key,
        prompt=tuple(f"{row['dataset']}_{row['id']}" for _, row in parts),
        successes=successes,
        truth=truth,
        context=np.array([is_context for is_context, _ in parts]),
        keys=keys,
    )


def fit_beta(successes: FloatArray) -> tuple[float, float]:
    """Return the Beta law of success rates that makes these counts out of `TRIALS` most likely."""

    def loss(logs: FloatArray) -> float:
        a, b = np.exp(logs)
        return float((betaln(a, b) - betaln(a + successes, b + TRIALS - successes)).sum())

    a, b = np.exp(minimize(loss, np.zeros(2), method="Nelder-Mead").x)
    return float(a), float(b)


def split(rows: Rows, seed: int) -> Split:
    """Draw `SUPPORT_ROWS` rows of each key's context as support; all others are targets."""
    rng = np.random.default_rng(seed)
    support = np.sort(
        np.concatenate(
            [
                rng.choice(np.flatnonzero((rows.key == index) & rows.context), SUPPORT_ROWS, replace=False)
                for index in range(len(rows.keys))
            ]
        )
    )
    return Split(rows, support, np.setdiff1d(np.arange(rows.key.size), support))


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
