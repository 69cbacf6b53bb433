"""What advantages are divided by before they are learned from: nothing, their group's spread, or their step's.

Owns these divisions alone; advantages themselves come from the allocator. Nothing is the default, since a baseline from
outside the group gives groups with equal outcomes an advantage that is signal: divided by a spread of 0 it would be lost,
and divided by a small one it would drown the rest.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from trainer.types import RolloutGroup

AdvantageScale = Literal["none", "group_std", "batch_std"]
FLOOR = 1e-6
"""Added to standard deviations, as in published GRPO code: it only matters for spreads that rounding has left."""


def scaled(group: RolloutGroup, scale: AdvantageScale) -> tuple[float, ...]:
    """Return a group's advantages, divided by the population standard deviation of its outcomes for "group_std".

    GRPO, arXiv 2402.03300, section 4.1.2. A group with equal outcomes has advantages of 0: its own mean is its baseline.
    With a baseline from elsewhere that would discard what such a group says, and near-equal outcomes would multiply it
    without bound; hence the configuration allows this only with baselines that come from the group itself.
    """
    if scale != "group_std":
        return group.advantages
    spread = statistics.pstdev(group.outcomes) if group.outcomes else 0.0
    if spread == 0.0:
        return (0.0,) * len(group.advantages)
    return tuple(advantage / (spread + FLOOR) for advantage in group.advantages)


def batch_spread(advantages: Sequence[float]) -> float:
    """Return what "batch_std" divides a step's advantages by: their population standard deviation.

    SPO, arXiv 2509.13232, normalises over the batch; its subtraction of the mean is left out, since these advantages have
    a baseline each, and a common shift would turn the sign of the small ones. 1 where they do not differ.
    """
    spread = statistics.pstdev(advantages) if advantages else 0.0
    return spread + FLOOR if spread > 0.0 else 1.0
