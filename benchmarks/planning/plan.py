"""Our plan as a run would use it: priors in, choice out, outcomes back into the run's record of its prior.

What the prior service knows of a prompt's own past is simulated here: its value is the prior, weighed as much as it
has proved to be worth, and the prompt's discounted outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from benchmarks.planning.peers import Opened, opened
from benchmarks.planning.world import World
from rollout_budget import baselines, stopping
from rollout_budget.decisions import Rules
from rollout_budget.engine.history import HALF_LIFE_VERSIONS
from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.planning import Allowance, choose
from rollout_budget.planning.choice import AVERAGED
from rollout_budget.reliability import Reliability
from rollout_budget.wire.plan import DEFAULT_EXPLORATION


@dataclass(slots=True)
class Past:
    """Discounted outcomes of every prompt of a pool, and how far its first prior can be trusted.

    Attributes:
        base: the prior without any history, shape (n,).
        successes, trials: discounted, shape (n,).
        reliability: of `base`.
    """

    base: FloatArray
    successes: FloatArray
    trials: FloatArray
    reliability: Reliability = field(default_factory=Reliability)

    @classmethod
    def of(cls, base: FloatArray) -> Past:
        """Start without outcomes."""
        return cls(base, np.zeros(base.size), np.zeros(base.size))

    def value(self, prompts: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return what the service says of these prompts and its standard error, both of shape (m,)."""
        strength = self.reliability.strength
        start = strength * self.reliability.prior_in_use(self.base[prompts])
        trials = strength + self.trials[prompts]
        value = np.clip((start + self.successes[prompts]) / trials, 0.0, 1.0)
        return value, np.sqrt(value * (1.0 - value) / (trials + 1.0))

    def learn(self, prompts: IntArray, found: Opened) -> None:
        """Take in one step's outcomes; older ones count less."""
        self.reliability = self.reliability.update(groups_of(self.base[prompts], found))
        fade = 0.5 ** (1.0 / HALF_LIFE_VERSIONS)
        self.successes *= fade
        self.trials *= fade
        self.successes[prompts] += found.successes
        self.trials[prompts] += found.sizes


@dataclass(slots=True)
class Planned:
    """`rollout_budget.planning` with a prior.

    Attributes:
        base: the prior of every prompt, shape (n,).
        error: its standard error, shape (n,); NaN where it states none.
        history: whether the service remembers outcomes of prompts that recur.
        exploration: share of the choice made uniformly.
        averaged: draws behind each score.
        seed: of the run.
    """

    base: FloatArray
    error: FloatArray
    history: bool = True
    exploration: float = DEFAULT_EXPLORATION
    averaged: int = AVERAGED
    seed: int = 0
    reliability: Reliability = field(default_factory=Reliability)
    past: Past | None = None

    def step(self, world: World, step: int, rng: np.random.Generator) -> Opened:
        """See `Chooser`."""
        offer = world.offers[step]
        if self.past is None:
            self.past = Past.of(self.base)
        remembers = self.history and world.remembers
        prior, error = self.past.value(offer) if remembers else (self.base[offer], self.error[offer])
        size = world.length.size
        rules = Rules(baselines.get("empirical_bayes"), stopping.get("posterior_variance"), k_init=size)
        candidates = Groups(prior, error, np.zeros(prior.size, dtype=np.int64), np.empty(0))
        allowance = Allowance(groups=world.length.groups)
        choice = choose(
            rules,
            candidates,
            self.reliability,
            allowance,
            exploration=self.exploration,
            seed=1_000_000 * self.seed + step,
            averaged=self.averaged,
        )
        found = opened(world, step, choice.chosen, rng, choice.weight)
        self.reliability = self.reliability.update(groups_of(prior[choice.chosen], found))
        if remembers:
            self.past.learn(offer[choice.chosen], found)
        return found


def groups_of(prior: FloatArray, found: Opened) -> Groups:
    """Return what was opened as groups."""
    outcomes = [[1.0] * wins + [0.0] * (size - wins) for wins, size in zip(found.successes, found.sizes, strict=True)]
    return Groups.of(prior, outcomes)
