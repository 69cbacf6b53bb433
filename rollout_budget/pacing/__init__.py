"""The price of a rollout from what is left of a budget and the steps still to come. Pure; unit scale.

`demand` says what groups would have drawn at other prices; `state` keeps that for a run and sets the price of a step.
"""

from __future__ import annotations

from rollout_budget.pacing.demand import PRICES, demand
from rollout_budget.pacing.state import Horizon, Pacing, solve

__all__ = ["PRICES", "Horizon", "Pacing", "demand", "solve"]
