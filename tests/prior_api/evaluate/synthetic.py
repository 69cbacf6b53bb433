"""Outcomes whose law is known, in memory and as a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from services.prior_api.evaluate.data import Outcomes, Row

WORDS = ("sum", "root", "angle", "prime", "graph", "series")


def law(
    seed: int, *, policies: tuple[str, ...] = ("m", "n"), versions: tuple[int, ...] = (1, 5), rows: int = 60
) -> Outcomes:
    """Return outcomes where a prompt's rate depends on its words, the policy and the version; half of prompts recur."""
    rng = np.random.default_rng(seed)
    ease = dict(zip(WORDS, np.linspace(-2.5, 2.5, len(WORDS)), strict=True))
    texts = {f"p{i}": f"{WORDS[i % len(WORDS)]} {WORDS[(i * 7 // 6) % len(WORDS)]} {i}" for i in range(rows * 4)}
    table: dict[tuple[str, int], list[Row]] = {}
    for place, (policy, version) in enumerate((p, v) for p in policies for v in versions):
        names = rng.choice(list(texts), rows, replace=False)
        table[policy, version] = []
        for name in names.tolist():
            logit = sum(ease[word] for word in texts[name].split()[:2]) + 0.3 * place
            successes = int(rng.binomial(8, 1 / (1 + np.exp(-logit))))
            table[policy, version].append(Row(policy, version, name, successes, 8))
    return Outcomes(dict(sorted(table.items())), texts)


def write(outcomes: Outcomes, folder: Path) -> Path:
    """Write outcomes in the plain format; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = (
        {"policy": r.policy, "version": r.version, "key": r.prompt, "successes": r.successes, "trials": r.trials}
        for rows in outcomes.rows.values()
        for r in rows
    )
    lines(folder / "outcomes.jsonl", rows)
    lines(folder / "prompts.jsonl", ({"key": key, "text": text} for key, text in outcomes.texts.items()))
    return folder


def lines(path: Path, objects: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(item) + "\n" for item in objects), encoding="utf-8")
