"""Which prompts a step opens: those that promise signal, drawn so that each one's chance is known exactly.

`posterior` says what is believed of a success rate before any rollout, `sampling` turns beliefs into inclusion
probabilities and draws by them, `choice` joins both with a run's rules and a budget. Pure, numpy only, unit scale.
"""

from __future__ import annotations

from rollout_budget.planning.choice import Allowance, Choice, choose
from rollout_budget.planning.posterior import posterior
from rollout_budget.planning.sampling import Inclusion, inclusion, systematic

__all__ = ["Allowance", "Choice", "Inclusion", "choose", "inclusion", "posterior", "systematic"]
