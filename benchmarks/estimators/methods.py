"""Methods to compare: an estimator, a stopping rule and their settings. A row of the table is one entry of `METHODS`.

Prices are on the {-1, +1} scale of the papers, as in the table; `Rules` takes a quarter of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from rollout_budget import baselines, stopping
from rollout_budget.decisions import PAPER_PRICE, PAPER_RANGE, Rules

K_MAX = 16
PRICES = tuple(2.0**-power for power in (3, 4, 5, 6, 7, 8, 9, 10, 11))
"""From a rollout that must save an eighth to one that is nearly free; the paper's is 2^-8."""


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


def stopped(curve: str, estimator: str, rule: str, price: float, k_init: int) -> Method:
    """Return an estimator with a stopping rule at a price on the {-1, +1} scale; `k_init` 0 is "auto"."""
    unit = PAPER_RANGE.squared_to_unit(price)
    rules = Rules(baselines.get(estimator), stopping.get(rule), price=unit, k_init=k_init, k_max=K_MAX)
    return Method(curve, f"c = 1/{1 / price:.0f}", rules)


METHODS: tuple[Method, ...] = (
    *(fixed("mean of group", "group_mean", k) for k in (2, 4, 8, 16)),
    *(fixed("paper fusion", "v05", k) for k in (2, 4, 8)),
    stopped("paper look-ahead", "v05", "osla", PAPER_PRICE, 4),
    *(fixed("empirical Bayes", "empirical_bayes", k) for k in (1, 2, 4, 8)),
    *(stopped("EB, stop, k_init 2", "empirical_bayes", "posterior_variance", price, 2) for price in PRICES),
    *(stopped("EB, stop, k_init auto", "empirical_bayes", "posterior_variance", price, 0) for price in PRICES),
)
