"""What a stopping rule takes and gives back. Each rule is one file beside this one.

All rules here share one shape. The worth of the j-th further rollout of a group, in squared error saved, is

    worth(j) = scale / ((size + j - 1) * (size + j)),        j = 1, 2, ...

decreasing in j: for `posterior_variance` size = m + k and scale = v * size (method of this project); for `osla` on the
{-1, +1} scale size = 1/D + k and scale = 1 (V0.5, arXiv 2603.10848, from R(k) = D/(1 + kD) + c k); for `fixed` only
the order matters, so that a cap is shared evenly. A rule states the curve, `allocation` solves it for a price or a cap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import Reliability


@dataclass(frozen=True, slots=True)
class Worth:
    """The worth curves of `G` groups, on the unit scale.

    Attributes:
        scale: numerator of the curve, shape (G,), >= 0.
        size: effective size so far, shape (G,), > 0.
        most: most further rollouts to ask for in the next wave, shape (G,), >= 0.
        priced: whether the price decides; False where a rule asks for `most` whatever it costs.
    """

    scale: FloatArray
    size: FloatArray
    most: IntArray
    priced: bool = True


class StoppingRule(Protocol):
    """A rule that says what a further rollout of each group is worth."""

    name: ClassVar[str]

    def worth(self, groups: Groups, reliability: Reliability, k_max: int) -> Worth:
        """Return the curves of `groups`, none of which may grow past `k_max` rollouts; sizes of 0 plan the first wave."""
        ...

    def first(self, k_init: int, k_max: int) -> int | None:
        """Return a fixed size of the first wave, or None where `worth` at k = 0 decides (`k_init` "auto" is 0)."""
        ...
