"""The rules of others for choosing prompts, on one interface with ours (`plan`). Each states its source.

A chooser sees outcomes only of what it opened, never a rate; the oracle, which sees them all, is the bound. What a
chooser cannot know it has no chances for: `weight` is then None, and a uniform objective cannot be had back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from benchmarks.planning.world import World, draw
from rollout_budget.groups import IntArray
from rollout_budget.outcomes import FloatArray

MOST_PASSES = 50
"""Times that a filter goes through the pool to fill one step, at most."""


@dataclass(frozen=True, slots=True)
class Opened:
    """One step: the groups that train, and what they cost.

    Attributes:
        places: places in the offer, shape (n,).
        sizes: rollouts of each, shape (n,).
        successes: of each, shape (n,).
        cost: all rollouts drawn, those of prompts that were screened out included.
        weight: importance weights, shape (n,), or None where no chances are known.
    """

    places: IntArray
    sizes: IntArray
    successes: IntArray
    cost: int
    weight: FloatArray | None = None


class Chooser(Protocol):
    """A rule with its memory of one run."""

    def step(self, world: World, step: int, rng: np.random.Generator) -> Opened:
        """Open one step's groups and learn from them."""
        ...


def opened(
    world: World, step: int, places: IntArray, rng: np.random.Generator, weight: FloatArray | None = None
) -> Opened:
    """Draw a group of the usual size of each of these prompts."""
    sizes = np.full(places.size, world.length.size, dtype=np.int64)
    return Opened(places, sizes, draw(world.rates(step)[places], sizes, rng), int(sizes.sum()), weight)


class Uniform:
    """Every prompt is as likely as any other: every weight is 1."""

    def step(self, world: World, step: int, rng: np.random.Generator) -> Opened:
        """See `Chooser`."""
        places = rng.choice(world.length.offered, world.length.groups, replace=False)
        return opened(world, step, places, rng, np.ones(places.size))


class Oracle:
    """The prompts with the most signal, by their true rates: no rule can open better ones, or starve more."""

    def step(self, world: World, step: int, rng: np.random.Generator) -> Opened:
        """See `Chooser`."""
        rates = world.rates(step)
        best = np.argsort(-(rates * (1.0 - rates)), kind="stable")[: world.length.groups]
        return opened(world, step, best.astype(np.int64), rng)


@dataclass(slots=True)
class Greso:
    """GRESO (arXiv 2506.02177): skip a prompt with probability 1 - p^z after z zero-variance groups in a row.

    p is kept apart for prompts that always succeed and that always fail; after each step it falls by 1% where more
    than the target share of groups had zero variance (25%, a third of it for easy ones), and else rises by 1%; it
    starts at 50%. Prompts come in shuffled epochs. Its refill after the rollouts is left out: groups without variance
    count for every rule here.
    """

    explore: FloatArray = field(default_factory=lambda: np.array([0.5, 0.5]))
    targets: FloatArray = field(default_factory=lambda: np.array([0.25 * 2 / 3, 0.25 / 3]))
    run: dict[int, int] = field(default_factory=dict)
    easy: dict[int, int] = field(default_factory=dict)
    queue: list[int] = field(default_factory=list)

    def step(self, world: World, step: int, rng: np.random.Generator) -> Opened:
        """See `Chooser`."""
        chosen: dict[int, None] = {}
        passes = 0
        while len(chosen) < world.length.groups:
            if not self.queue:
                self.queue = rng.permutation(world.length.offered).tolist()
                passes += 1
            place = self.queue.pop()
            prompt = int(world.offers[step, place])
            length = self.run.get(prompt, 0) if world.remembers else 0
            keep = self.explore[self.easy.get(prompt, 0)] ** length
            if place not in chosen and (rng.random() < keep or passes > MOST_PASSES):
                chosen[place] = None
        found = opened(world, step, np.array(list(chosen), dtype=np.int64), rng)
        self._learn(world.offers[step, found.places], found)
        return found

    def _learn(self, prompts: IntArray, found: Opened) -> None:
        dead = (found.successes == 0, found.successes == found.sizes)
        for kind in (0, 1):
            above = dead[kind].mean() >= self.targets[kind]
            self.explore[kind] = np.clip(self.explore[kind] + (-0.01 if above else 0.01), 0.01, 1.0)
        for prompt, hard, easy in zip(prompts.tolist(), *dead, strict=True):
            self.run[prompt] = self.run.get(prompt, 0) + 1 if hard or easy else 0
            self.easy[prompt] = int(easy)


@dataclass(slots=True)
class Mopps:
    """MoPPS (arXiv 2507.04632): a Beta posterior per prompt, one Thompson draw each, those nearest 1/2 are opened.

    `a <- decay a + (1 - decay) 1 + successes`, likewise for failures; Beta(1, 1) at first. A prompt that is not opened
    keeps what it has.
    """

    decay: float = 1.0
    target: float = 0.5
    counts: FloatArray | None = None

    def step(self, world: World, step: int, rng: np.random.Generator) -> Opened:
        """See `Chooser`."""
        if self.counts is None or not world.remembers:
            self.counts = np.ones((2, world.length.offered))
        drawn = rng.beta(*self.counts)
        best = np.argsort(np.abs(drawn - self.target))[: world.length.groups]
        found = opened(world, step, best.astype(np.int64), rng)
        for row, news in zip(self.counts, (found.successes, found.sizes - found.successes), strict=True):
            row[best] = self.decay * row[best] + (1.0 - self.decay) + news
        return found


@dataclass(frozen=True, slots=True)
class Speed:
    """SPEED (arXiv 2506.09016): screen prompts with a few rollouts, go on with those that neither all pass nor all fail.

    Prompts are screened in a random order until the step's budget is spent; what screening cost counts, and a prompt
    that is screened out trains nothing.
    """

    screen: int = 4
    further: int = 12

    def step(self, world: World, step: int, rng: np.random.Generator) -> Opened:
        """See `Chooser`."""
        order = rng.permutation(world.length.offered)
        rates = world.rates(step)[order]
        passed = draw(rates, np.full(order.size, self.screen), rng)
        kept = (passed > 0) & (passed < self.screen)
        costs = np.cumsum(self.screen + self.further * kept)
        done = max(int(np.searchsorted(costs, world.length.rollouts, side="right")), 1)
        places = np.flatnonzero(kept[:done])
        sizes = np.full(places.size, self.screen + self.further, dtype=np.int64)
        more = draw(rates[places], np.full(places.size, self.further), rng)
        return Opened(order[places], sizes, passed[places] + more, int(costs[done - 1]))
