"""What a stopping rule takes and gives back. Each rule is one file beside this one.

A rule states what further rollouts of each group are worth (`worth`); `allocation` solves that for a price or a cap.
In closed form, in squared error saved,

    worth(j) = scale / ((size + j - 1) * (size + j)),        j = 1, 2, ...

for `osla` on the {-1, +1} scale size = 1/D + k and scale = 1 (V0.5, arXiv 2603.10848, from R(k) = D/(1 + kD) + c k);
for a Beta posterior size = m + k and scale = v * size; for rules of a fixed size only the order matters, so that a cap
is shared evenly. Rules that plan the first waves of a whole batch jointly under a total (`pooled`) state a table.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.stopping.worth import Worth


class StoppingRule(Protocol):
    """A rule that says what a further rollout of each group is worth.

    Attributes:
        pooled: whether `first` is an average over the batch, whose total is shared by worth, instead of each group's.
        refills: whether a full group whose outcomes are all equal is given up, for the trainer to open another one.
    """

    name: ClassVar[str]
    pooled: ClassVar[bool]
    refills: ClassVar[bool]

    def worth(self, groups: Groups, reliability: Reliability, k_max: int) -> Worth:
        """Return the curves of `groups`, none of which may grow past `k_max` rollouts; sizes of 0 plan the first wave."""
        ...

    def first(self, k_init: int, k_max: int) -> int | None:
        """Return a fixed size of the first wave, or None where `worth` at k = 0 decides (`k_init` "auto" is 0)."""
        ...
