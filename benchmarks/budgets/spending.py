"""Ways to spend a budget over a run, each through the shipped rules: what differs is the price and the cap of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from benchmarks.budgets.world import Run
from rollout_budget import allocation, baselines, stopping
from rollout_budget.decisions import PAPER_RANGE, Rules, first_wave, next_wave
from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.pacing import Horizon, Pacing, demand
from rollout_budget.reliability import Reliability

RULES = Rules(baselines.get("empirical_bayes"), stopping.get("posterior_variance"), k_init=0, k_max=16)
"""Our rules with first waves by trust; the price is set by what spends."""

FITTING = (2.0**-12, 2.0**-1)
"""Between these prices, {-1, +1} scale, lies the one that fits a budget."""
HALVINGS = 9
"""Of the 11 octaves between them: to 2%."""


class Spending(Protocol):
    """Sets the price of each step and what it may spend."""

    def begin(self, step: int, groups: int, left: int) -> tuple[float, int]:
        """Return price (unit scale) and cap of a step of so many groups, with `left` rollouts in all."""
        ...

    def end(self, groups: Groups, reliability: Reliability) -> None:
        """Be told how a step ended, and what the run knew when it began."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """One price for all steps, on the {-1, +1} scale; whatever is left may be spent."""

    price: float

    def begin(self, step: int, groups: int, left: int) -> tuple[float, int]:
        """See `Spending`."""
        del step, groups
        return PAPER_RANGE.squared_to_unit(self.price), left

    def end(self, groups: Groups, reliability: Reliability) -> None:
        """See `Spending`."""


@dataclass(frozen=True, slots=True)
class Even:
    """As many rollouts for every step, whatever they are worth there; within the step they go by worth.

    Half of them go to first waves, as no price keeps those small.

    """

    steps: int
    budget: int

    def begin(self, step: int, groups: int, left: int) -> tuple[float, int]:
        """See `Spending`."""
        del groups
        return 0.0, min(left, self.budget * (step + 1) // self.steps - self.budget * step // self.steps)

    def end(self, groups: Groups, reliability: Reliability) -> None:
        """See `Spending`."""


@dataclass(slots=True)
class Paced:
    """The price of `rollout_budget.pacing`."""

    steps: int
    state: Pacing = field(default_factory=Pacing)

    def begin(self, step: int, groups: int, left: int) -> tuple[float, int]:
        """See `Spending`."""
        self.state = self.state.begin(step, Horizon(self.steps, left), RULES.price).opens(groups)
        return RULES.price if self.state.price is None else self.state.price, left

    def end(self, groups: Groups, reliability: Reliability) -> None:
        """See `Spending`."""
        self.state = self.state.closes(len(groups), demand(RULES, groups, reliability))


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run came to: squared error of each step's groups, {-1, +1} scale, and each step's rollouts and price."""

    error: FloatArray
    rollouts: IntArray
    price: FloatArray
    starved: int

    @property
    def total(self) -> float:
        """Squared error over all groups."""
        return float(self.error.sum())


Draw = Callable[[Rules, Run, slice, Reliability, int], tuple[IntArray, IntArray]]


def by_worth(rules: Rules, run: Run, part: slice, state: Reliability, cap: int) -> tuple[IntArray, IntArray]:
    """Return first waves and final sizes of a step: waves until nobody asks, each shared by worth under the cap."""
    unseen = run.drawn(part, np.zeros(part.stop - part.start, dtype=np.int64))
    plan = first_wave(rules, unseen, state)
    first = sizes = allocation.share(plan.worth, plan.wanted, cap)
    while True:
        worth = rules.stopping.worth(run.drawn(part, sizes), state, rules.k_max)
        wanted = np.where(sizes > 0, allocation.wanted(worth, rules.price), 0)
        more = allocation.share(worth, wanted, cap - int(sizes.sum()))
        if not more.any():
            return first, sizes
        sizes = sizes + more


def spend(run: Run, spending: Spending, budget: int) -> Spent:
    """Return a whole run; the state of the prior is learned on the way, as an allocator does."""
    steps, state, left, starved = run.ends.size, Reliability(), budget, 0
    error, rollouts, prices = np.zeros(steps), np.zeros(steps, dtype=np.int64), np.zeros(steps)
    for step in range(steps):
        part = run.part(step)
        price, cap = spending.begin(step, part.stop - part.start, left)
        rules = _rules(price, cap, part.stop - part.start)
        first, sizes = by_worth(rules, run, part, state, cap)
        groups = run.drawn(part, sizes)
        value = next_wave(rules, groups, state).baselines.value
        error[step] = PAPER_RANGE.squared_from_unit(float(np.sum((value - run.truth[part]) ** 2)))
        rollouts[step], prices[step] = sizes.sum(), PAPER_RANGE.squared_from_unit(price)
        left -= int(sizes.sum())
        starved += int((sizes == 0).any())
        spending.end(groups, state)
        state = state.calibrate(run.drawn(part, first)).learn(groups)
    return Spent(error, rollouts, prices, starved)


def fitting(run: Run, budget: int) -> float:
    """Return the lowest fixed price, {-1, +1} scale, whose demand over the whole run is within the budget.

    By bisection, to 2%, of the demand that no budget cuts off; demand falls with the price but for noise.
    """
    low, high = FITTING
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        drawn = int(spend(run, Fixed(middle), run.outcomes.size).rollouts.sum())
        low, high = (low, middle) if drawn <= budget else (middle, high)
    return high


def _rules(price: float, cap: int, groups: int) -> Rules:
    """Return the rules at a price; at none, where the cap alone decides, first waves take half of the cap."""
    if price > 0.0:
        return replace(RULES, price=price)
    return replace(RULES, price=0.0, k_init=max(1, cap // (2 * groups)))
