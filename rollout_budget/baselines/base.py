"""What a baseline estimator takes and gives back. Each estimator is one file beside this one.

An estimator sees groups on the unit scale and what the run has learned about its prior; it gives back, for every
group, the fused estimate of the success rate and, for every sample, what is subtracted from its reward. It draws
nothing, stores nothing and never divides by a group's standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from rollout_budget.groups import Groups
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import Reliability

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Baselines:
    """Baselines of `G` groups with `N` samples, on the unit scale.

    Attributes:
        value: fused estimate of each group's mean outcome, shape (G,).
        per_sample: baseline of each sample, shape (N,); differs from `value` where a sample must not see itself.
        weight: weight of the group's own mean in `value`, shape (G,), in [0, 1]; the prior has the rest.
        trusted: whether the prior took part in `value`, shape (G,).
        strength: pseudo-rollouts that the prior counts for, shape (G,); 0 where it is not used.
        standard_error: standard error of `value`, shape (G,); NaN where it cannot be told.
    """

    value: FloatArray
    per_sample: FloatArray
    weight: FloatArray
    trusted: BoolArray
    strength: FloatArray
    standard_error: FloatArray


class BaselineEstimator(Protocol):
    """A rule that turns priors and outcomes into baselines.

    Attributes:
        drops_prior: whether the running mean shall stand in for V once the run has found V to predict no better.
    """

    name: ClassVar[str]
    drops_prior: ClassVar[bool]

    def __call__(self, groups: Groups, reliability: Reliability) -> Baselines:
        """Return the baselines of `groups`; groups without outcomes get the prior."""
        ...
