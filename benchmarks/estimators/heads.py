"""The prior service's own heads on a split of real outcomes, without the service around them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.estimators.data import TRIALS, Split
from rollout_budget.outcomes import FloatArray
from rollout_budget.wire import EvidenceRow
from services.prior_api.encoders import Choice, Placement, create
from services.prior_api.heads import CONTROLS, Context, GaussianProcess, Predictor, Question
from services.prior_api.heads.base import Float32Array
from services.prior_api.quality import levels_of
from services.prior_api.records import Cell

TEAM = "benchmark"
TEXTS_PER_CALL = 256
"""Texts given to the encoder at once, shortest first."""
ENCODER = create(Choice(), Placement())
"""The service's default, in float32."""


def predict(
    name: str, split: Split, features: Callable[[], Mapping[str, Float32Array]]
) -> tuple[FloatArray, FloatArray]:
    """Return values and standard errors of the targets, each of shape (n,); the Gaussian process learns from all keys."""
    rows = split.rows
    cells = [_cell(split, row) for row in split.support]
    known = dict(features()) if name == "gp" else {}
    predictor: Predictor = (
        GaussianProcess(ENCODER.width - ENCODER.surface, ENCODER.surface).fit(Context(cells, known))
        if name == "gp"
        else CONTROLS[name]
    )
    values, errors = np.empty(split.targets.size), np.empty(split.targets.size)
    for index, (model, step) in enumerate(rows.keys):
        places = np.flatnonzero(rows.key[split.targets] == index)
        own = [cell for cell in cells if cell.policy == model]
        histories: dict[str, list[Cell]] = defaultdict(list)
        for cell in own:
            histories[cell.identity].append(cell)
        prompts = [rows.prompt[row] for row in split.targets[places]]
        question = Question(
            (TEAM, model), step, prompts, known, [histories[prompt] for prompt in prompts], levels_of(_evidence(own))
        )
        found = predictor.values(question)
        values[places], errors[places] = found.values, found.standard_errors
    return values, errors


def _cell(split: Split, row: int) -> Cell:
    rows = split.rows
    model, step = rows.keys[rows.key[row]]
    return Cell(TEAM, model, rows.prompt[row], rows.prompt[row], step, float(rows.successes[row]), TRIALS, 1)


def _evidence(cells: list[Cell]) -> list[EvidenceRow]:
    return [
        EvidenceRow(id=f"{place}", key=cell.key, version=cell.version, successes=cell.successes, trials=cell.trials)
        for place, cell in enumerate(cells)
    ]


def encode(folder: Path, cache: Path) -> dict[str, Float32Array]:
    """Return the features of every prompt, from `cache` if it holds them; a minute or two of one core otherwise."""
    texts: dict[str, str] = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    names = sorted(texts, key=lambda name: len(texts[name]))
    if cache.is_file():
        stored = np.load(cache)
        if stored["names"].tolist() == names and stored["vectors"].shape[1] == ENCODER.width:
            return dict(zip(names, stored["vectors"], strict=True))
    print(f"encoding {len(names)} prompts, once; kept in {cache}", flush=True)
    ENCODER.load()
    calls = range(0, len(names), TEXTS_PER_CALL)
    vectors = np.concatenate(
        [ENCODER.encode([texts[name] for name in names[start : start + TEXTS_PER_CALL]]) for start in calls]
    )
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, names=np.array(names), vectors=vectors)
    return dict(zip(names, vectors, strict=True))
