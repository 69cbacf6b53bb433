"""Methods to compare: an estimator, a stopping rule and their settings. One entry of `METHODS` is one point.

`curve` names the line that a point belongs to, along which rollouts can be matched. Prices are on the {-1, +1} scale
of the papers; `Rules` takes a quarter of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.estimators.stream import MOST_ROLLOUTS
from benchmarks.estimators.variants import OURS, POOLED, Variant
from rollout_budget import baselines, stopping
from rollout_budget.decisions import PAPER_PRICE, PAPER_RANGE, Rules
from rollout_budget.stopping import StoppingRule
from rollout_budget.stopping.reinforce_ada import ReinforceAdaBalanced, ReinforceAdaPositive

SIZES = (1, 2, 4, 8, 16)
PRICES = tuple(2.0**-power for power in (4, 5, 6, 7, 8, 9, 10))
"""From a rollout that must save a sixteenth to one that is nearly free; the paper's is 2^-8."""
AUTO_PRICES = tuple(2.0**-power for power in (5, 7, 9))

LEAVE_ONE_OUT = "leave-one-out"
EMPIRICAL_BAYES = "empirical Bayes"
LOOK_AHEAD = "V0.5 look-ahead"
STOPPED_AT_2 = "ours: stop, k_init 2"
STOPPED_AT_AUTO = "ours: stop, k_init auto"
OUR_CURVES = (EMPIRICAL_BAYES, STOPPED_AT_2, STOPPED_AT_AUTO)

FIXED = {
    "group mean": "group_mean",
    LEAVE_ONE_OUT: "leave_one_out",
    "V0.5 fusion": "v05",
    "James-Stein": "james_stein",
    "EBPO": "ebpo",
    "Beta history (SPO)": "beta_history",
    EMPIRICAL_BAYES: "empirical_bayes",
}
"""Curves of estimators with groups of a fixed size."""


@dataclass(frozen=True, slots=True)
class Method:
    """One point.

    Attributes:
        curve: the line that it is a point of.
        label: which point.
        rules: what it does.
        variant: how the run learns about its prior.
        alone: whether each group is decided by itself, whatever the batch and the run.
        learns: whether what the run has learned matters; if not, none is learned.
    """

    curve: str
    label: str
    rules: Rules
    variant: Variant = OURS
    alone: bool = False
    learns: bool = True


def fixed(curve: str, estimator: str, k: int) -> Method:
    """Return an estimator with groups of `k`."""
    rules = Rules(baselines.get(estimator), stopping.get("fixed"), k_init=k, k_max=k)
    alone = estimator in {"group_mean", "leave_one_out", "v05", "beta_history"}
    return Method(curve, f"k = {k}", rules, alone=alone)


def varied(curve: str, variant: Variant, k: int) -> Method:
    """Return a variant of ours with groups of `k`."""
    return Method(curve, f"k = {k}", Rules(variant.estimator, stopping.get("fixed"), k_init=k, k_max=k), variant)


def stopped(curve: str, variant: Variant, price: float, k_init: int) -> Method:
    """Return a variant of ours with its stop at a price on the {-1, +1} scale; `k_init` 0 is "auto"."""
    unit = PAPER_RANGE.squared_to_unit(price)
    rules = Rules(variant.estimator, variant.stopping, price=unit, k_init=k_init, k_max=MOST_ROLLOUTS)
    return Method(curve, f"c = 1/{1 / price:.0f}", rules, variant)


def allocated(curve: str, rule: StoppingRule, k_init: int, *, k_max: int = MOST_ROLLOUTS) -> Method:
    """Return an allocation rule with leave-one-out baselines, as in its paper or the nearest to it."""
    rules = Rules(baselines.get("leave_one_out"), rule, k_init=k_init, k_max=k_max)
    return Method(curve, f"k_init = {k_init}", rules, alone=not rule.pooled, learns=False)


METHODS: tuple[Method, ...] = (
    *(fixed(curve, estimator, k) for curve, estimator in FIXED.items() for k in SIZES),
    Method(
        LOOK_AHEAD,
        "c = 1/256",
        Rules(
            baselines.get("v05"),
            stopping.get("osla"),
            price=PAPER_RANGE.squared_to_unit(PAPER_PRICE),
            k_init=4,
            k_max=MOST_ROLLOUTS,
        ),
        alone=True,
    ),
    *(stopped(STOPPED_AT_2, OURS, price, 2) for price in PRICES),
    *(stopped(STOPPED_AT_AUTO, OURS, price, 0) for price in AUTO_PRICES),
    *(allocated("Reinforce-Ada, positive", ReinforceAdaPositive(k), k) for k in (1, 2, 4, 8)),
    *(allocated("Reinforce-Ada, balanced", ReinforceAdaBalanced(k), k) for k in (1, 2, 4, 8)),
    *(allocated("VIP", stopping.get("vip"), k) for k in (2, 4, 8)),
    *(allocated("Knapsack RL", stopping.get("knapsack"), k) for k in (2, 4, 8)),
    *(allocated("DAPO refill", stopping.get("dapo"), k, k_max=k) for k in (2, 4, 8, 16)),
)

REFERENCE_METHODS: tuple[Method, ...] = (
    *(method for method in METHODS if method.curve in {"group mean", "V0.5 fusion", LOOK_AHEAD}),
    *(varied("one strength", POOLED, k) for k in (1, 2, 4, 8)),
    *(stopped("one strength, stop by wave, k_init 2", POOLED, price, 2) for price in (*PRICES, 2.0**-11)),
)
"""What the reference figures were measured with: the first version of ours pooled one strength over the run."""
