"""`python -m benchmarks.planning --data PATH --out PATH`: which prompts to open, ours beside GRESO, MoPPS and SPEED.

Every method has the same rollouts a step and chooses among the same prompts: a pool that recurs, the same pool while
the policy learns, and a stream of prompts that are met once. Signal is p (1 - p), the variance of an outcome, summed
over trained rollouts and divided by all rollouts drawn. Prints a table per regime, synthetic families, and where ours
loses; writes `tables.md`, `figures.json` and `planning.png`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.estimators import data, heads
from benchmarks.planning import priors, report
from benchmarks.planning.peers import Chooser, Greso, Mopps, Oracle, Speed, Uniform
from benchmarks.planning.plan import Planned
from benchmarks.planning.simulate import Figures, run
from benchmarks.planning.world import REGIMES, Length, Regime, World
from rollout_budget.outcomes import FloatArray
from rollout_budget.planning.choice import AVERAGED

TRADES: Mapping[str, tuple[float, int]] = {
    **{f"e = 1/{round(1 / share)}": (share, AVERAGED) for share in (1 / 64, 1 / 8, 1 / 4, 1 / 2)},
    **{f"e = 1/8, {drawn} averaged": (1 / 8, drawn) for drawn in (1, 2, 16)},
}
"""Exploration, and draws behind each score, of the trade-off."""
FAMILIES: Mapping[str, tuple[float, float]] = {
    "u-shaped": (0.3, 0.3),
    "uniform": (1.0, 1.0),
    "all hard": (1.0, 20.0),
    "all easy": (20.0, 1.0),
}
"""Beta laws of the synthetic success rates."""
TARGETS = 1728
"""Prompts of a synthetic family: as many as the real data has."""
SHORT = ("uniform", "MoPPS", "SPEED 4 + 12", "plan, truth + N(0, .25)", "plan, constant", "plan, inverted", "oracle")
"""Methods of the synthetic table."""

Makers = dict[str, Callable[[], Chooser]]
Said = tuple[FloatArray, FloatArray]
"""Priors and their standard errors, NaN where there are none; each of shape (n,)."""


def methods(values: Mapping[str, Said], seed: int) -> Makers:
    """Return every method, fresh for one run; `values` are priors of all prompts of that run."""
    found: Makers = {
        "uniform": Uniform,
        "GRESO": Greso,
        "MoPPS": Mopps,
        "MoPPS, decay .5": lambda: Mopps(decay=0.5),
        "SPEED 4 + 12": Speed,
        "SPEED 4 + 4": lambda: Speed(further=4),
    }
    for name, said in values.items():
        found[f"plan, {name}"] = partial(Planned, *said, seed=seed)
    first = next(iter(values))
    found[f"plan, {first}, no history"] = partial(Planned, *values[first], history=False, seed=seed)
    found["oracle"] = Oracle
    return found


def rehearse(
    truth: FloatArray, known: Mapping[str, Said], regime: Regime, length: Length, seed: int
) -> tuple[World, dict[str, Said]]:
    """Return one run's prompts and their priors: those `known` of all targets, and those made from the truth."""
    rng = np.random.default_rng([seed, 1])
    tagged = np.arange(truth.size, dtype=np.float64)
    places = World.of(tagged, regime, length, rng).truth.astype(np.int64)
    world = World.of(truth, regime, length, np.random.default_rng([seed, 1]))
    said = {name: (value[places], error[places]) for name, (value, error) in known.items()}
    for name, prior in priors.PRIORS.items():
        said[name] = prior(world.truth, np.random.default_rng([seed, 2])), np.full(world.truth.size, np.nan)
    return world, said


def measure(
    truths: Mapping[int, FloatArray],
    known: Mapping[int, Mapping[str, Said]],
    regime: Regime,
    length: Length,
    only: tuple[str, ...] | None = None,
) -> dict[str, list[Figures]]:
    """Run every method on every seed's targets."""
    found: dict[str, list[Figures]] = {}
    for seed, truth in truths.items():
        world, values = rehearse(truth, known.get(seed, {}), regime, length, seed)
        for name, make in methods(values, seed).items():
            if only is None or name in only:
                found.setdefault(name, []).append(run(make(), world, np.random.default_rng([seed, 3])))
    return found


def trade_off(
    truths: Mapping[int, FloatArray], known: Mapping[int, Mapping[str, Said]], length: Length
) -> dict[str, list[Figures]]:
    """Return what each way to explore comes to, with the first prior and a pool that recurs."""
    found: dict[str, list[Figures]] = {name: [] for name in TRADES}
    for seed, truth in truths.items():
        world, values = rehearse(truth, known[seed], "recurring", length, seed)
        said = next(iter(values.values()))
        for name, runs in found.items():
            exploration, averaged = TRADES[name]
            chooser = Planned(*said, exploration=exploration, averaged=averaged, seed=seed)
            runs.append(run(chooser, world, np.random.default_rng([seed, 3])))
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with context.jsonl, train.jsonl, prompts.json")
    parser.add_argument("--out", type=Path, default=Path("runs/planning"), help="folder for tables and plot")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=Length().steps)
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    length = Length(steps=options.steps)
    truths, known = _real(options.data, options.out, options.seeds)
    regimes: dict[str, report.Runs] = {regime: measure(truths, known, regime, length) for regime in REGIMES}
    synthetic: dict[str, report.Runs] = {name: _synthetic(law, options.seeds, length) for name, law in FAMILIES.items()}
    trade = trade_off(truths, known, length)
    text = _text(regimes, synthetic, trade)
    report.plot(regimes, trade, options.out / "planning.png")
    (options.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    (options.out / "figures.json").write_text(_as_json(regimes | synthetic | {"exploration": trade}), encoding="utf-8")
    print(text)
    print(f"\n{options.seeds} seeds, {time.perf_counter() - start:.0f} s; tables, figures and plot in {options.out}")


def _real(folder: Path, out: Path, seeds: int) -> tuple[dict[int, FloatArray], dict[int, dict[str, Said]]]:
    """Return success rates of each seed's targets, and what the service's Gaussian process says of them."""
    rows = data.load(folder)
    splits = {seed: data.split(rows, seed) for seed in range(seeds)}
    features = heads.encode(folder, out / "features.npz")
    known = {seed: {"gp": heads.predict("gp", split, lambda: features)} for seed, split in splits.items()}
    return {seed: split.truth for seed, split in splits.items()}, known


def _synthetic(law: tuple[float, float], seeds: int, length: Length) -> dict[str, list[Figures]]:
    truths = {seed: np.random.default_rng([seed, 4]).beta(*law, TARGETS) for seed in range(seeds)}
    return measure(truths, {}, "recurring", length, SHORT)


def _text(
    regimes: Mapping[str, report.Runs], synthetic: Mapping[str, report.Runs], trade: Mapping[str, list[Figures]]
) -> str:
    parts = [f"### {regime}\n\n{report.table(runs)}" for regime, runs in regimes.items()]
    parts.append(f"### Synthetic rates, recurring: signal per rollout against uniform\n\n{report.short(synthetic)}")
    uniform = {report.UNIFORM: regimes["recurring"][report.UNIFORM]}
    parts.append(f"### Exploration, recurring, gp\n\n{report.table(uniform | dict(trade))}")
    everywhere = {**regimes, **synthetic}
    lines = [f"- {line}" for name, found in everywhere.items() for line in report.losses(name, found)]
    parts.append("### Where we lose\n\n" + ("\n".join(lines) or "- nowhere in these tables"))
    return "\n\n".join(parts)


def _as_json(everything: Mapping[str, report.Runs]) -> str:
    return json.dumps(
        {
            name: {method: [dataclasses.asdict(one) for one in found] for method, found in runs.items()}
            for name, runs in everything.items()
        },
        indent=1,
    )


if __name__ == "__main__":
    main()
