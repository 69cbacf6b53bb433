"""One chooser through one run, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.planning.peers import Chooser
from benchmarks.planning.world import World


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run came to.

    Attributes:
        mixed: share of trained groups whose outcomes differ; NaN, as `bias`, where none was trained.
        signal: sum of p (1 - p) over trained rollouts, per rollout drawn, in [0, 1/4].
        groups: trained groups per step.
        effective: effective sample size of the importance weights over the sample size, (sum w)^2 / (n sum w^2);
            NaN where no chances are known.
        noise: mean of weight^2 p (1 - p) over trained groups, over the mean p (1 - p) on offer: noise of the weighted
            gradient at equal groups, 1 for the uniform choice; NaN where no chances are known.
        bias: mean rate of what was trained, weighted where weights are known, less the mean rate on offer.
        wait: longest time that any prompt waited, in steps; NaN in a stream.
        never: share of prompts that were never trained on; NaN in a stream.
    """

    mixed: float
    signal: float
    groups: float
    effective: float
    noise: float
    bias: float
    wait: float
    never: float


def run(chooser: Chooser, world: World, rng: np.random.Generator) -> Figures:
    """Let a chooser go through a run; every step counts, the first ones too."""
    mixed, signal, cost, number, effective, noise, bias = [], 0.0, 0, 0, [], [], []
    met = np.full(world.length.offered, -1)
    wait = np.zeros(world.length.offered)
    for step in range(world.length.steps):
        rates = world.rates(step)
        found = chooser.step(world, step, rng)
        own = rates[found.places]
        signal += float((found.sizes * own * (1.0 - own)).sum())
        cost += found.cost
        number += found.places.size
        mixed += ((found.successes > 0) & (found.successes < found.sizes)).tolist()
        weight = np.ones(found.places.size) if found.weight is None else found.weight
        if found.places.size:
            bias.append(float(np.mean(weight * own) - rates.mean()))
        if found.weight is not None:
            effective.append(float(weight.sum() ** 2 / (weight**2).sum() / weight.size))
            noise.append(float(np.mean(weight**2 * own * (1.0 - own)) / np.mean(rates * (1.0 - rates))))
        wait[found.places] = np.maximum(wait[found.places], step - met[found.places])
        met[found.places] = step
    wait = np.maximum(wait, world.length.steps - met)
    return Figures(
        mixed=_mean(mixed),
        signal=signal / cost,
        groups=number / world.length.steps,
        effective=_mean(effective),
        noise=_mean(noise),
        bias=_mean(bias),
        wait=float(wait.max()) if world.remembers else float("nan"),
        never=float(np.mean(met < 0)) if world.remembers else float("nan"),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
