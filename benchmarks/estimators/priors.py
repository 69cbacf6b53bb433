"""Priors to start from: each gives one predicted success rate per target. Add one to `PRIORS` to see it in the table.

Two are the truth with noise, so that their quality is known; a constant is the control; one is the prior service's own
Gaussian process on sentence features, fitted on the support of all keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.estimators.data import TRIALS, Split
from rollout_budget.outcomes import FloatArray
from services.prior_api.encoders import MiniLM
from services.prior_api.heads import Context, GaussianProcess, Question
from services.prior_api.heads.base import Float32Array
from services.prior_api.records import Cell

TEXTS_PER_CALL = 32
"""Texts encoded together; sorted by length, so that little is padding."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a prior may use: the split, a source of randomness, and the features of prompts once they are needed."""

    split: Split
    rng: np.random.Generator
    features: Callable[[], Mapping[str, Float32Array]]


Prior = Callable[[Material], FloatArray]


def noisy_truth(deviation: float) -> Prior:
    """Return a prior that misses the truth by normal noise, clipped to [0, 1]."""

    def predict(material: Material) -> FloatArray:
        truth = material.split.truth
        return np.clip(truth + material.rng.normal(0.0, deviation, truth.size), 0.0, 1.0)

    return predict


def constant(material: Material) -> FloatArray:
    """Return the mean rate of the support for every target."""
    rows, support = material.split.rows, material.split.support
    return np.full(material.split.targets.size, rows.successes[support].mean() / TRIALS)


def gaussian_process(material: Material) -> FloatArray:
    """Return the values of the prior service's Gaussian process, fitted on the support of all keys at once."""
    rows, features = material.split.rows, dict(material.features())
    cells = [
        Cell("benchmark", rows.keys[rows.key[row]][0], rows.prompt[row], rows.prompt[row], rows.keys[rows.key[row]][1],
             float(rows.successes[row]), TRIALS, 1)
        for row in material.split.support
    ]  # fmt: skip
    fit = GaussianProcess(width=MiniLM.width).fit(Context(cells, features))
    values = np.empty(material.split.targets.size)
    for index, (model, step) in enumerate(rows.keys):
        places = np.flatnonzero(rows.key[material.split.targets] == index)
        identities = [rows.prompt[row] for row in material.split.targets[places]]
        question = Question(("benchmark", model), step, identities, features, [()] * len(identities), [])
        values[places] = fit.values(question).values
    return values


PRIORS: Mapping[str, Prior] = {
    "gp": gaussian_process,
    "truth + N(0, .15)": noisy_truth(0.15),
    "truth + N(0, .25)": noisy_truth(0.25),
    "constant": constant,
}


def encode(folder: Path, cache: Path) -> dict[str, Float32Array]:
    """Return the sentence features of every prompt, from `cache` if it holds them; minutes on one core otherwise."""
    texts: dict[str, str] = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    names = sorted(texts, key=lambda name: len(texts[name]))
    if cache.is_file():
        stored = np.load(cache)
        if stored["names"].tolist() == names:
            return dict(zip(names, stored["vectors"], strict=True))
    encoder = MiniLM(threads=1)
    encoder.load()
    calls = range(0, len(names), TEXTS_PER_CALL)
    vectors = np.concatenate(
        [encoder.encode([texts[name] for name in names[start : start + TEXTS_PER_CALL]]) for start in calls]
    )
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, names=np.array(names), vectors=vectors)
    return dict(zip(names, vectors, strict=True))
