"""One decision for many groups: what to subtract, whether to stop, how many more. Pure, vectorised, unit scale.

Owns the join of estimator, stopping rule and allocation under a run's settings; owns no budget (the ledger's), no
history (`reliability`'s) and no memory of groups (the engine's).

For an unbiased policy gradient pass the reliability as it stood before the outcomes of these very groups entered it:
no sample may see itself, not even through the pooled figures. A stop that depends on outcomes still leaves a bias,
because later outcomes, and how many there are, depend on earlier ones. Measured by enumeration in
`tests/core/test_gradient.py`: up to 0.56 of the gradient if a loss averages over each group, under 0.1 if it sums over
all samples of a batch, and none at all with `sample_baselines` of the first wave only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rollout_budget import allocation, baselines, stopping
from rollout_budget.baselines import BaselineEstimator, Baselines
from rollout_budget.baselines.base import BoolArray
from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray, OutcomeRange
from rollout_budget.reliability import Reliability
from rollout_budget.stopping import StoppingRule, Worth
from rollout_budget.stopping.osla import OneStepLookAhead
from rollout_budget.wire import DecisionSettings

PAPER_PRICE = 1 / 16**2
"""Marginal cost of a rollout in V0.5, in squared error on the {-1, +1} scale: a perfect group of 16 is worth it."""
OUR_PRICE = 1 / 8**2
"""What it is here by default: baselines are then about as exact as the paper's at its own price, for 0.4 of its
rollouts (`docs/estimators.md`). The paper's own rule keeps the paper's price."""
PAPER_RANGE = OutcomeRange(-1.0, 1.0)
"""The scale that both are stated on."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of a run on the unit scale.

    Attributes:
        estimator: what is subtracted.
        stopping: when to stop.
        price: squared error that a further rollout must save, >= 0.
        k_init: rollouts of the first wave; 0 lets the stopping rule choose ("auto").
        k_max: most rollouts of a group, >= 1.
        first_wave_only: whether only samples of the first wave may carry an advantage.
    """

    estimator: BaselineEstimator
    stopping: StoppingRule
    price: float = PAPER_RANGE.squared_to_unit(OUR_PRICE)
    k_init: int = 4
    k_max: int = 16
    first_wave_only: bool = False

    @classmethod
    def of(cls, settings: DecisionSettings) -> Rules:
        """Return the rules of these settings; an absent price is the rule's own, mapped to the outcome range."""
        outcome_range = settings.outcome_range.core()
        usual = PAPER_PRICE if settings.stopping == OneStepLookAhead.name else OUR_PRICE
        return cls(
            estimator=baselines.get(settings.estimator),
            stopping=stopping.get(settings.stopping),
            price=PAPER_RANGE.squared_to_unit(usual)
            if settings.price is None
            else outcome_range.squared_to_unit(settings.price),
            k_init=0 if settings.k_init == "auto" else settings.k_init,
            k_max=settings.k_max,
            first_wave_only=settings.advantage_samples == "first_wave",
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch of `G` groups should do next, before any budget is asked.

    Attributes:
        baselines: baselines of what was drawn so far.
        worth: what further rollouts are worth, to share a cap by (`allocation.share`).
        wanted: further rollouts that each group asks for, shape (G,); 0 means stop.
        given_up: whether a group is to be replaced, as its outcomes carry no signal, shape (G,).
    """

    baselines: Baselines
    worth: Worth
    wanted: IntArray
    given_up: BoolArray


def first_wave(rules: Rules, groups: Groups, reliability: Reliability) -> Plan:
    """Plan wave 0 of groups without outcomes, each of at most `k_max`.

    It is `k_init` each; for a `pooled` rule `k_init` on average, shared by worth; where the rule leaves it to the worth
    (`k_init` "auto"), all that is worth its price, at least one.
    """
    worth = rules.stopping.worth(groups, reliability, rules.k_max)
    size = rules.stopping.first(rules.k_init, rules.k_max)
    if size is None:
        wanted = np.clip(allocation.wanted(worth, rules.price), 1, rules.k_max)
    elif rules.stopping.pooled:
        wanted = allocation.share(worth, worth.most, size * int((groups.sizes == 0).sum()))
    else:
        wanted = np.full(len(groups), size, dtype=np.int64)
    return _plan(rules, groups, reliability, worth, wanted)


def next_wave(rules: Rules, groups: Groups, reliability: Reliability) -> Plan:
    """Plan the next wave of groups from all their outcomes so far."""
    worth = rules.stopping.worth(groups, reliability, rules.k_max)
    return _plan(rules, groups, reliability, worth, allocation.wanted(worth, rules.price))


def sample_baselines(
    rules: Rules, groups: Groups, reliability: Reliability, first: IntArray, whole: Baselines
) -> tuple[FloatArray, BoolArray]:
    """Return what is subtracted from each sample, and whether it may carry an advantage; both of shape (N,).

    With `first_wave_only`, samples of the first wave are compared with each other and with the prior alone, which
    makes their gradient exactly unbiased: a baseline that saw later waves would depend on them through the stop.

    Args:
        rules: the run's settings.
        groups: all outcomes so far, those of the first wave first.
        reliability: as it stood before these groups.
        first: rollouts of each group's first wave, shape (G,).
        whole: baselines of all that was drawn, as planned (`Plan.baselines`).
    """
    per_sample = whole.per_sample.copy()
    if not rules.first_wave_only:
        return per_sample, np.ones(per_sample.shape, dtype=np.bool_)
    starts = np.cumsum(groups.sizes) - groups.sizes
    in_first = np.arange(groups.outcomes.size) - starts[groups.owner] < first[groups.owner]
    head = Groups(groups.prior, groups.prior_error, np.minimum(first, groups.sizes), groups.outcomes[in_first])
    per_sample[in_first] = rules.estimator(head, reliability).per_sample
    return per_sample, in_first


def _plan(rules: Rules, groups: Groups, reliability: Reliability, worth: Worth, wanted: IntArray) -> Plan:
    given_up = np.zeros(len(groups), dtype=np.bool_)
    if rules.stopping.refills:
        given_up = (groups.sizes >= rules.k_max) & groups.uniform
    return Plan(rules.estimator(groups, reliability), worth, wanted, given_up)
