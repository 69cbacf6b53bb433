"""`python -m benchmarks.estimators --data PATH --out PATH`: estimators and stopping rules on real outcomes.

For every prior and method: mean squared error of the fused value against the denoised truth, on the {-1, +1} scale,
and the rollouts it took. Prints the reference figures beside ours, and writes `table.md`, `points.md`, `figures.json`
and `estimators.png`. Each seed draws its own support, prior noise and outcomes; within a seed all methods meet the
same prompts and outcomes.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.estimators import data, priors, report, simulate
from benchmarks.estimators.methods import METHODS, Method
from rollout_budget.decisions import PAPER_RANGE

NEAR = 2.0
"""Spreads of one run within which a figure counts as reproduced."""


def measure(
    folder: Path,
    out: Path,
    *,
    names: Sequence[str],
    seeds: int,
    methods: tuple[Method, ...] = METHODS,
    length: simulate.Length = simulate.Length(),  # noqa: B008  frozen
) -> report.Results:
    """Run every method on every named prior; `out` keeps the prompts' features between runs."""
    rows = data.load(folder)
    features = functools.cache(lambda: priors.encode(folder, out / "features.npz"))
    own = {name: np.empty(seeds) for name in names}
    errors = {name: np.empty((len(methods), seeds)) for name in names}
    rollouts = {name: np.empty((len(methods), seeds)) for name in names}
    for seed in range(seeds):
        split = data.split(rows, seed)
        for name in names:
            prior = priors.PRIORS[name](priors.Material(split, np.random.default_rng([seed, 1]), features))
            own[name][seed] = PAPER_RANGE.squared_from_unit(float(np.mean((prior - split.truth) ** 2)))
            for place, method in enumerate(methods):
                rng = np.random.default_rng([seed, 2])
                figure = simulate.run(method.rules, prior, split.truth, rng, length)
                errors[name][place, seed], rollouts[name][place, seed] = figure.error, figure.rollouts
    return report.Results(methods, own, errors, rollouts)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with context.jsonl, train.jsonl, prompts.json")
    parser.add_argument("--out", type=Path, default=Path("runs/estimators"), help="folder for tables and plot")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--priors", nargs="+", choices=sorted(priors.PRIORS), default=list(priors.PRIORS))
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    results = measure(options.data, options.out, names=options.priors, seeds=options.seeds)
    compared = list(report.comparisons(results))
    report.plot(results, options.out / "estimators.png")
    (options.out / "table.md").write_text(report.table(compared) + "\n", encoding="utf-8")
    (options.out / "points.md").write_text(report.all_points(results) + "\n", encoding="utf-8")
    (options.out / "figures.json").write_text(_as_json(results), encoding="utf-8")

    print(report.table(compared))
    near = sum(row.deviations <= NEAR for row in compared)
    print(f"\n{near} of {len(compared)} figures within {NEAR:.0f} spreads of one run; {options.seeds} seeds,", end=" ")
    print(f"{time.perf_counter() - start:.0f} s; all points, plot and figures in {options.out}")


def _as_json(results: report.Results) -> str:
    rows = [
        {
            "prior": prior,
            "curve": method.curve,
            "setting": method.label,
            "rollouts": results.rollouts[prior][place].tolist(),
            "errors": results.errors[prior][place].tolist(),
        }
        for prior in results.own
        for place, method in enumerate(results.methods)
    ]
    return json.dumps({"own": {name: own.tolist() for name, own in results.own.items()}, "points": rows}, indent=1)


if __name__ == "__main__":
    main()
