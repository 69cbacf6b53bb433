"""What a run knows of its demand for rollouts, and the price of its next step. Pure; unit scale; no clock, no ledger.

A run of T steps has B rollouts. Which of them to draw, so that they save the most squared error in all, is a knapsack
whose items fall in worth: the best choice takes everything worth more than one threshold, the Lagrange multiplier of
the constraint, the same at every step. That threshold is the price at which the demand of all steps adds up to B. The
demand of steps to come is unknown, so at the start of each step the price is solved again from

    demand of a step at the price  =  rollouts left / steps still to come

with the demand of recent steps (groups of those steps times `demand` per group, both discounted by age) in place of
those to come. What a wrong price spent or saved is thereby spread over all later steps.

Sources: solving again with what is left is the certainty-equivalent policy of dynamic resource allocation; its loss
against hindsight stays bounded, whatever the horizon, for independent items of a known law with few values, while any
price fixed beforehand loses in the order of sqrt(T) (Arlotto and Gurvich, "Uniformly bounded regret in the
multi-secretary problem", arXiv 1710.07719). Where the law is unknown, dual mirror descent loses at most in the order of
sqrt(T) (Balseiro, Lu and Mirrokni, "Dual mirror descent for online allocation problems", arXiv 2002.10421). Ad auctions
do so under the name of pacing. Neither result covers demand that changes as the policy learns; `docs/budgets.md` shows
what comes of it there. Guaranteed here, whatever the demand: the price is finite and >= 0, it moves by at most a factor
of `MOST_CHANGE` a step, and the ledger, not the price, keeps the limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rollout_budget.outcomes import FloatArray
from rollout_budget.pacing.demand import PRICES

HALF_LIFE_STEPS = 16.0
"""Age at which a step counts half: long against the noise of one step, short against the change of a policy."""
MOST_CHANGE = 4.0
"""Largest factor between the prices of two steps that follow each other: demand goes with the root of the price, so it
at most doubles or halves, and a first estimate from few groups does little harm."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """What is to be spread: `left` rollouts over `steps >= 1` steps in all, those begun included."""

    steps: int
    left: int


@dataclass(frozen=True, slots=True)
class Pacing:
    """State of one run.

    Attributes:
        first_step: number of the first step begun; None before it.
        step: number of the newest step begun.
        price: price of the newest step; None while nothing is known, when the rule's own price holds.
        steps: steps begun before the newest one, discounted.
        opened: groups opened in those, discounted.
        opening: groups opened in the newest step so far.
        closed: groups closed, discounted.
        demand: rollouts that those closed would have drawn at each of `PRICES`, discounted.
    """

    first_step: int | None = None
    step: int = 0
    price: float | None = None
    steps: float = 0.0
    opened: float = 0.0
    opening: int = 0
    closed: float = 0.0
    demand: tuple[float, ...] = (0.0,) * PRICES.size

    def begins(self, step: int) -> bool:
        """Whether a step of this number is a new one; numbers may be skipped and never go back."""
        return self.first_step is None or step > self.step

    def begin(self, step: int, horizon: Horizon | None, usual: float) -> Pacing:
        """Return the state with the price of a new step.

        Args:
            step: its number; steps that were skipped count as gone by.
            horizon: what is to be spread; None where nothing limits the run, when the usual price holds.
            usual: price to start from, > 0 or 0.
        """
        if self.first_step is None:
            return replace(self, first_step=step, step=step)
        factor = 0.5 ** (1.0 / HALF_LIFE_STEPS)
        known = replace(
            self,
            step=step,
            steps=factor * (self.steps + 1.0),
            opened=factor * (self.opened + self.opening),
            opening=0,
            closed=factor * self.closed,
            demand=tuple(factor * rollouts for rollouts in self.demand),
        )
        if horizon is None:
            return replace(known, price=None)
        if known.closed <= 0.0:
            return known
        to_come = max(horizon.steps - (step - self.first_step), 1)
        before = max(usual if self.price is None else self.price, float(PRICES[0]))
        wished = solve(known.per_step, max(horizon.left, 0) / to_come)
        return replace(known, price=min(max(wished, before / MOST_CHANGE), before * MOST_CHANGE))

    def opens(self, groups: int) -> Pacing:
        """Return the state after so many more groups of the newest step."""
        return replace(self, opening=self.opening + groups)

    def closes(self, groups: int, demand: FloatArray) -> Pacing:
        """Return the state after groups that closed, with what they would have drawn in all at each price."""
        summed = (np.array(self.demand) + demand).tolist()
        return replace(self, closed=self.closed + groups, demand=tuple(summed))

    @property
    def per_step(self) -> FloatArray:
        """Rollouts that a step is expected to draw at each of `PRICES`; there is a closed group and a past step."""
        groups = self.opened / self.steps
        expected: FloatArray = np.array(self.demand) * (groups / self.closed)
        return expected


def solve(demand: FloatArray, target: float) -> float:
    """Return the lowest price, within `PRICES`, at which no more than `target` is drawn; the highest if there is none.

    Between prices of the grid demand is taken to be linear in the logarithm of the price. Rises, which are noise, are
    levelled first: no price counts for less than a higher one draws.
    """
    falling = np.maximum.accumulate(demand[::-1])[::-1]
    if target >= falling[0]:
        return float(PRICES[0])
    if target < falling[-1]:
        return float(PRICES[-1])
    place = int(np.argmax(falling <= target))
    above, below = float(falling[place - 1]), float(falling[place])
    share = (above - target) / (above - below)
    return float(PRICES[place - 1] * (PRICES[place] / PRICES[place - 1]) ** share)
