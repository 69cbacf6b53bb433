"""Stopping rules by name: one file each, one protocol (`base`)."""

from __future__ import annotations

from rollout_budget.errors import InvalidInput
from rollout_budget.stopping.base import StoppingRule
from rollout_budget.stopping.dapo import Dapo
from rollout_budget.stopping.fixed import Fixed
from rollout_budget.stopping.knapsack import Knapsack
from rollout_budget.stopping.osla import OneStepLookAhead
from rollout_budget.stopping.posterior_variance import PosteriorVariance
from rollout_budget.stopping.reinforce_ada import ReinforceAdaBalanced, ReinforceAdaPositive
from rollout_budget.stopping.vip import Vip
from rollout_budget.stopping.worth import Curve, Tabulated, Worth

__all__ = ["RULES", "Curve", "StoppingRule", "Tabulated", "Worth", "get"]

_ALL: tuple[StoppingRule, ...] = (
    Fixed(),
    OneStepLookAhead(),
    PosteriorVariance(),
    Dapo(),
    ReinforceAdaPositive(),
    ReinforceAdaBalanced(),
    Vip(),
    Knapsack(),
)

RULES: dict[str, StoppingRule] = {rule.name: rule for rule in _ALL}


def get(name: str) -> StoppingRule:
    """Return the stopping rule of this name.

    Raises:
        InvalidInput: there is none; the message lists those there are.
    """
    try:
        return RULES[name]
    except KeyError:
        raise InvalidInput(f"no stopping rule {name!r}; there are {', '.join(RULES)}") from None
