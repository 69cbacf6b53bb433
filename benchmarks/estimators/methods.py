"""Methods to compare: an estimator, a stopping rule and their settings. A row of the table is one entry of `METHODS`.

Prices are on the {-1, +1} scale of the papers, as in the table; `Rules` takes a quarter of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rollout_budget import baselines, stopping
from rollout_budget.decisions import PAPER_PRICE, PAPER_RANGE, Rules
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.stopping import Curve, StoppingRule
from rollout_budget.stopping.posterior_variance import PosteriorVariance

K_MAX = 16
PRICES = tuple(2.0**-power for power in (3, 4, 5, 5.5, 6, 6.5, 7, 7.5, 8, 8.5, 9, 10, 11))
"""From a rollout that must save an eighth to one that is nearly free; the paper's is 2^-8."""


class OneByOne(PosteriorVariance):
    """The same rule asking again after every rollout: what granting whole waves costs shows against it."""

    name = "posterior_variance_one_by_one"

    def worth(self, groups: Groups, reliability: Reliability, k_max: int) -> Curve:
        """Return the rule's curves, `most` 1."""
        whole = super().worth(groups, reliability, k_max)
        return replace(whole, most=np.minimum(whole.most, 1))


@dataclass(frozen=True, slots=True)
class Method:
    """One row: `curve` names the line of the plot that it is a point of."""

    curve: str
    label: str
    rules: Rules


def fixed(curve: str, estimator: str, k: int) -> Method:
    """Return an estimator with groups of `k`."""
    rules = Rules(baselines.get(estimator), stopping.get("fixed"), k_init=k, k_max=k)
    return Method(curve, f"k = {k}", rules)


def stopped(curve: str, estimator: str, rule: StoppingRule, price: float, k_init: int) -> Method:
    """Return an estimator with a stopping rule at a price on the {-1, +1} scale; `k_init` 0 is "auto"."""
    unit = PAPER_RANGE.squared_to_unit(price)
    rules = Rules(baselines.get(estimator), rule, price=unit, k_init=k_init, k_max=K_MAX)
    return Method(curve, f"c = 1/{1 / price:.0f}", rules)


METHODS: tuple[Method, ...] = (
    *(fixed("mean of group", "group_mean", k) for k in (2, 4, 8, 16)),
    *(fixed("paper fusion", "v05", k) for k in (2, 4, 8)),
    stopped("paper look-ahead", "v05", stopping.get("osla"), PAPER_PRICE, 4),
    *(fixed("empirical Bayes", "empirical_bayes", k) for k in (1, 2, 4, 8)),
    *(stopped("EB, stop by wave, k_init 2", "empirical_bayes", PosteriorVariance(), price, 2) for price in PRICES),
    *(stopped("EB, stop one by one, k_init 2", "empirical_bayes", OneByOne(), price, 2) for price in PRICES),
    *(stopped("EB, stop by wave, k_init auto", "empirical_bayes", PosteriorVariance(), price, 0) for price in PRICES),
)
